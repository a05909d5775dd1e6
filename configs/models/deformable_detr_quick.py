"""A Deformable DETR small enough to train on two CPU cores in minutes: about two million parameters, from scratch.

The published two-stage form, narrowed: a residual backbone with two blocks a stage, 3 levels, 1 encoder layer and
6 decoder stages of 96 channels, 30 queries.
"""

from detectron2.config import LazyCall as L

from sqr.detectors.deformable_detr import ProposalQueries

from ..common.quick import narrow_deformable
from .deformable_detr_r50 import model

narrow_deformable(model)
model.decoder.stages.refine = True
model.decoder.stages.two_stage = True
model.query_generator = L(ProposalQueries)(num_queries=30, num_classes="${..num_classes}", dim="${..encoder.dim}")
