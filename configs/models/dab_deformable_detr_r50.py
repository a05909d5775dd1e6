"""DAB-Deformable-DETR on ResNet-50: only the model (Liu et al., ICLR 2022, appendix)."""

from detectron2.config import LazyCall as L

from sqr.detectors.dab_detr import AnchorQueries, dab_deformable_stages

from .deformable_detr_r50 import model

model.encoder.layers.ffn_dim = 2048
model.encoder.layers.dropout = 0.0
model.query_generator = L(AnchorQueries)(num_queries=300, dim="${..encoder.dim}", learned_content=True)
model.decoder.stages = L(dab_deformable_stages)(
    num_stages=6,
    num_classes="${...num_classes}",
    dim="${...encoder.dim}",
    num_heads="${...encoder.layers.num_heads}",
    num_levels="${...encoder.num_levels}",
    num_points=4,
    ffn_dim="${...encoder.layers.ffn_dim}",
    dropout="${...encoder.layers.dropout}",
)
model.criterion.class_weight = 1.0
