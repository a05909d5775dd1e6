"""DETR on ResNet-50: only the model (Carion et al., ECCV 2020)."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from sqr.classification import SoftmaxClassification
from sqr.criterion import SetCriterion
from sqr.decoder import RecollectingDecoder
from sqr.detectors.detr import PositionQueries, detr_stages
from sqr.layers import SinePositionEmbedding
from sqr.layers.dense_encoder import DenseEncoder, dense_encoder_layers
from sqr.matcher import HungarianMatcher
from sqr.meta_arch import QueryBasedDetector
from sqr.postprocessing import PerQueryPostprocessor

model = L(QueryBasedDetector)(
    num_classes=80,
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res5"],
        freeze_at=2,  # stem and res2, as published
    ),
    encoder=L(DenseEncoder)(
        layers=L(dense_encoder_layers)(
            num_layers=6, dim="${..dim}", num_heads=8, ffn_dim=2048, dropout=0.1, activation="relu"
        ),
        position_embedding=L(SinePositionEmbedding)(dim="${..dim}", temperature=10000.0, offset=0.0),
        in_feature="res5",
        in_channels=2048,
        dim=256,
    ),
    query_generator=L(PositionQueries)(num_queries=100, dim="${..encoder.dim}"),
    decoder=L(RecollectingDecoder)(
        stages=L(detr_stages)(
            num_stages=6,
            num_classes="${...num_classes}",
            dim="${...encoder.dim}",
            num_heads="${...encoder.layers.num_heads}",
            ffn_dim="${...encoder.layers.ffn_dim}",
            dropout="${...encoder.layers.dropout}",
        ),
        plan="sequential",
        inference_plan=None,  # the cascade of all stages
        checkpoint_groups=False,  # these three: docs/cost.md
        max_groups_per_pass=None,
        compile_stages=False,
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            classification="${..classification}", class_weight=1.0, l1_weight=5.0, giou_weight=2.0
        ),
        classification=L(SoftmaxClassification)(no_object_weight=0.1),
        class_weight=1.0,
        l1_weight=5.0,
        giou_weight=2.0,
        group_reduction="sum",  # over a stage's groups, as the paper; or "mean"
    ),
    postprocessor=L(PerQueryPostprocessor)(duplicate_decay=None),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    size_divisibility=0,
    ignore_padding=False,  # as published; docs/configs.md#padding
)
