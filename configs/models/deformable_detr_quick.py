"""A Deformable DETR small enough to train on two CPU cores in minutes: about a million parameters, from scratch.

The published architecture, narrowed: a residual backbone with one block a stage, 3 levels, 1 encoder layer and
6 decoder stages of 96 channels, 50 queries.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from .deformable_detr_r50 import model


def residual_stage(in_channels: int, out_channels: int):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=1,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[2],
        norm="BN",
    )


model.backbone = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
    stages=[residual_stage(32, 64), residual_stage(64, 96), residual_stage(96, 128)],
    out_features=["res2", "res3", "res4"],
)
model.encoder.dim = 96
model.encoder.num_levels = 3
model.encoder.neck.in_channels = {"res2": 64, "res3": 96, "res4": 128}
model.encoder.layers.num_layers = 1
model.encoder.layers.num_heads = 4
model.encoder.layers.ffn_dim = 192
model.encoder.layers.dropout = 0.0
model.query_generator.num_queries = 50
