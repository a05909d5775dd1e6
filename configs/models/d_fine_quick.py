"""A D-FINE of ``transformers`` of the size of rt_detr_v2_quick: needs ``transformers``."""

from .rt_detr_v2_quick import model

model.name_or_config.model_type = "d_fine"
model.name_or_config.depth_mult = 0.34
