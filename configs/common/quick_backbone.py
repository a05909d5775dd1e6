"""Residual backbones small enough for two CPU cores: two basic blocks per stage."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock


def residual_stage(in_channels: int, out_channels: int, stride: int = 2):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=2,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[stride, 1],
        norm="BN",
    )


def stem():
    return L(BasicStem)(in_channels=3, out_channels=32, norm="BN")


# strides 8, 16 and 32
backbone = L(ResNet)(
    stem=stem(),
    stages=[residual_stage(32, 64), residual_stage(64, 96), residual_stage(96, 128)],
    out_features=["res2", "res3", "res4"],
)

# one feature of stride 8, for detectors that attend to all of it
one_level_backbone = L(ResNet)(
    stem=stem(),
    stages=[residual_stage(32, 64), residual_stage(64, 96, stride=1)],
    out_features=["res3"],
)
