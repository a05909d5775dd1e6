"""A DETR small enough to train on two CPU cores: the published architecture, narrowed.

A residual backbone with two blocks a stage, features of stride 8, 1 encoder layer and 6 decoder stages of 96 channels,
30 queries. Position embeddings of higher frequencies: at a stride of 8 the image is 16 tokens wide, and the published
ones, of one period over the image, tell neighbours apart only after a long training.
"""

from ..common.quick import narrow_dense
from .detr_r50 import model

narrow_dense(model)
model.encoder.position_embedding.temperature = 20.0
model.encoder.position_embedding.periods = 6.0
