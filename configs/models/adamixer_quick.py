"""An AdaMixer small enough to train on two CPU cores in minutes: 2.6 million parameters, from scratch.

The published architecture, narrowed: a residual backbone with two blocks a stage, 3 levels, and 6 stages of 64 channels
with 16 points, 30 queries.
"""

from ..common.quick_backbone import backbone
from .adamixer_r50 import model

model.backbone = backbone
model.encoder.neck.in_channels = {"res2": 64, "res3": 96, "res4": 128}
model.encoder.strides = [8, 16, 32]
model.query_generator.num_queries = 30
model.decoder.stages.dim = 64
model.decoder.stages.num_heads = 4
model.decoder.stages.ffn_dim = 128
model.decoder.stages.in_points = 16
model.decoder.stages.out_points = 16
model.size_divisibility = 32
model.ignore_padding = True
