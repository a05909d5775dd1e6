"""A D-FINE of ``transformers`` of the size of rt_detr_v2_quick: needs ``transformers``."""

from .rt_detr_v2_quick import model

model.config.model_type = "d_fine"
model.config.depth_mult = 0.34
