"""Group DETR on Conditional DETR and ResNet-50: only the model (Chen et al., ICCV 2023)."""

from detectron2.config import LazyCall as L

from sqr.classification import FocalClassification
from sqr.detectors.group_detr import PointQueries, conditional_detr_stages
from sqr.postprocessing import TopKPostprocessor

from .detr_r50 import model

model.query_generator = L(PointQueries)(num_queries=300, num_groups=11, dim="${..encoder.dim}")
model.decoder.stages = L(conditional_detr_stages)(
    num_stages=6,
    num_classes="${...num_classes}",
    dim="${...encoder.dim}",
    num_heads="${...encoder.layers.num_heads}",
    ffn_dim="${...encoder.layers.ffn_dim}",
    dropout="${...encoder.layers.dropout}",
    activation="${...encoder.layers.activation}",
)
model.criterion.classification = L(FocalClassification)(alpha=0.25, gamma=2.0)
model.criterion.class_weight = 2.0
model.criterion.matcher.class_weight = 2.0
model.postprocessor = L(TopKPostprocessor)(topk=300, duplicate_decay=None)
