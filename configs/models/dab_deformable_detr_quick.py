"""A DAB-Deformable-DETR small enough to train on two CPU cores: the published architecture, narrowed.

A residual backbone with two blocks a stage, 3 levels, 1 encoder layer and 6 decoder stages of 96 channels, 30 queries.
"""

from ..common.quick import narrow_deformable
from .dab_deformable_detr_r50 import model

narrow_deformable(model)
model.query_generator.num_queries = 30
