"""Deformable DETR on ResNet-50, plain form: only the model (Zhu et al., ICLR 2021).

The other published forms and recollection are deltas on it, see configs/deformable_detr/.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion
from sqr.decoder import RecollectingDecoder
from sqr.detectors.deformable_detr import LearnedQueries, deformable_stages
from sqr.layers import ConvNeck, SinePositionEmbedding
from sqr.layers.deformable_encoder import DeformableEncoder, deformable_encoder_layers
from sqr.matcher import HungarianMatcher
from sqr.meta_arch import QueryBasedDetector
from sqr.postprocessing import TopKPostprocessor

model = L(QueryBasedDetector)(
    num_classes=80,
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res3", "res4", "res5"],
        freeze_at=2,  # stem and res2, as published
    ),
    encoder=L(DeformableEncoder)(
        neck=L(ConvNeck)(
            in_channels={"res3": 512, "res4": 1024, "res5": 2048},
            out_channels="${..dim}",
            num_levels="${..num_levels}",
        ),
        layers=L(deformable_encoder_layers)(
            num_layers=6,
            dim="${..dim}",
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            ffn_dim=1024,
            dropout=0.1,
        ),
        position_embedding=L(SinePositionEmbedding)(dim="${..dim}", temperature=10000.0, offset=-0.5),
        num_levels=4,
        dim=256,
        ignore_padding="${..ignore_padding}",
    ),
    query_generator=L(LearnedQueries)(num_queries=300, dim="${..encoder.dim}"),
    decoder=L(RecollectingDecoder)(
        stages=L(deformable_stages)(
            num_stages=6,
            num_classes="${...num_classes}",
            refine=False,
            two_stage=False,
            dim="${...encoder.dim}",
            num_heads="${...encoder.layers.num_heads}",
            num_levels="${...encoder.num_levels}",
            num_points=4,
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
            classification="${..classification}", class_weight=2.0, l1_weight=5.0, giou_weight=2.0
        ),
        classification=L(FocalClassification)(alpha=0.25, gamma=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        group_reduction="sum",  # over a stage's groups, as the paper; or "mean"
    ),
    postprocessor=L(TopKPostprocessor)(topk=100, duplicate_decay=None),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    size_divisibility=0,
    ignore_padding=False,  # as published; docs/configs.md#padding
)
