"""AdaMixer on ResNet-50 with 100 queries: only the model (Gao et al., CVPR 2022).

More queries, other backbones and recollection are deltas on it, see configs/adamixer/.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion
from sqr.decoder import RecollectingDecoder
from sqr.detectors.adamixer import FullImageQueries, PyramidEncoder, adamixer_stages
from sqr.layers import ChannelMappingNeck, FixedStatsBatchNorm
from sqr.matcher import HungarianMatcher
from sqr.meta_arch import QueryBasedDetector
from sqr.postprocessing import TopKPostprocessor

model = L(QueryBasedDetector)(
    num_classes=80,
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm=FixedStatsBatchNorm),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm=FixedStatsBatchNorm),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=2,  # stem and res2, as published
    ),
    encoder=L(PyramidEncoder)(
        neck=L(ChannelMappingNeck)(
            in_channels={"res2": 256, "res3": 512, "res4": 1024, "res5": 2048},
            out_channels="${...decoder.stages.dim}",
        ),
        strides=[4, 8, 16, 32],
        ignore_padding="${..ignore_padding}",
    ),
    query_generator=L(FullImageQueries)(num_queries=100, dim="${..decoder.stages.dim}"),
    decoder=L(RecollectingDecoder)(
        stages=L(adamixer_stages)(
            num_stages=6,
            num_classes="${...num_classes}",
            dim=256,
            num_heads=8,
            ffn_dim=2048,
            in_points=32,
            out_points=128,
            num_feature_groups=4,
            dropout=0.0,
        ),
        plan="sequential",
        inference_plan=None,  # the cascade of all stages
        checkpoint_groups=False,  # these three: docs/cost.md
        max_groups_per_pass=None,
        compile_stages=False,
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            classification="${..classification}",
            class_weight=2.0,
            l1_weight=5.0,
            giou_weight=2.0,
            l1_format="${..l1_format}",
        ),
        classification=L(FocalClassification)(alpha=0.25, gamma=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        l1_format="xyxy",
        group_reduction="sum",  # over a stage's groups, as the paper; or "mean"
    ),
    postprocessor=L(TopKPostprocessor)(topk=100, duplicate_decay=None),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    size_divisibility=32,  # as published; the levels' strides divide it
    ignore_padding=False,  # as published; docs/configs.md#padding
)
