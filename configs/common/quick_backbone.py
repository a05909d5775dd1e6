"""A residual backbone small enough for two CPU cores: one basic block a stage, strides 8, 16 and 32."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock


def residual_stage(in_channels: int, out_channels: int):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=1,
        in_channels=in_channels,
        out_channels=out_channels,
        stride_per_block=[2],
        norm="BN",
    )


backbone = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
    stages=[residual_stage(32, 64), residual_stage(64, 96), residual_stage(96, 128)],
    out_features=["res2", "res3", "res4"],
)
