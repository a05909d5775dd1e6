"""A DAB-DETR small enough to train on two CPU cores: the published architecture, narrowed.

A residual backbone with two blocks a stage, features of stride 8, 1 encoder layer and 6 decoder stages of 96 channels,
30 queries.
"""

from ..common.quick import narrow_dense
from .dab_detr_r50 import model

narrow_dense(model)
