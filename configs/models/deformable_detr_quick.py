"""A Deformable DETR small enough to train on two CPU cores in minutes: about two million parameters, from scratch.

The published two-stage form, narrowed: a residual backbone with two blocks a stage, 3 levels, 1 encoder layer and
6 decoder stages of 96 channels, 30 queries.
"""

from detectron2.config import LazyCall as L

from sqr.detectors.deformable_detr import ProposalQueries

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
model.decoder.stages.refine = True
model.decoder.stages.two_stage = True
model.query_generator = L(ProposalQueries)(num_queries=30, num_classes="${..num_classes}", dim="${..encoder.dim}")
