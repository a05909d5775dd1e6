"""A Group DETR small enough to train on two CPU cores: the published architecture, narrowed.

A residual backbone with two blocks a stage, features of stride 8, 1 encoder layer and 6 decoder stages of 96 channels,
50 queries in each of 3 groups.
"""

from ..common.quick_backbone import one_level_backbone
from .group_detr_r50 import model

model.backbone = one_level_backbone
model.encoder.in_feature = "res3"
model.encoder.in_channels = 96
model.encoder.dim = 96
model.encoder.layers.num_layers = 1
model.encoder.layers.num_heads = 4
model.encoder.layers.ffn_dim = 192
model.encoder.layers.dropout = 0.0
model.query_generator.num_queries = 50
model.query_generator.num_groups = 3
