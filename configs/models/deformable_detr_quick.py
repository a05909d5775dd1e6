"""A Deformable DETR small enough to train on two CPU cores in minutes: about a million parameters, from scratch.

The published architecture, narrowed: a residual backbone with one block a stage, 3 levels, 1 encoder layer and
6 decoder stages of 96 channels, 50 queries.
"""

from ..common.quick_backbone import backbone
from .deformable_detr_r50 import model

model.backbone = backbone
model.encoder.dim = 96
model.encoder.num_levels = 3
model.encoder.neck.in_channels = {"res2": 64, "res3": 96, "res4": 128}
model.encoder.layers.num_layers = 1
model.encoder.layers.num_heads = 4
model.encoder.layers.ffn_dim = 192
model.encoder.layers.dropout = 0.0
model.query_generator.num_queries = 50
