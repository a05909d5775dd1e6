"""Backbone stages that Detectron2 does not provide."""

from __future__ import annotations

from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock


def dilated_c5_stages(*, depth: int = 50, norm: str = "FrozenBN") -> list[list[CNNBlockBase]]:
    """ResNet stages whose last one keeps stride 16 by dilation: DETR's "DC5".

    As in torchvision (``replace_stride_with_dilation``), the first block of the last stage has stride 1 and keeps
    dilation 1; only the blocks after it are dilated by 2. Detectron2's ``res5_dilation=2`` also dilates the first
    block, unlike the published DC5 models.

    Args:
        depth: 50, 101 or 152.
        norm: Detectron2's name of the normalisation.
    """
    if depth not in (50, 101, 152):
        raise ValueError(f"depth={depth}: DC5 needs bottleneck blocks, so depth is one of 50, 101, 152")
    stages = ResNet.make_default_stages(depth, stride_in_1x1=False, norm=norm)
    num_blocks = len(stages[-1])
    stages[-1] = ResNet.make_stage(
        block_class=BottleneckBlock,
        num_blocks=num_blocks,
        in_channels=1024,
        out_channels=2048,
        bottleneck_channels=512,
        stride_per_block=[1] * num_blocks,
        dilation_per_block=[1] + [2] * (num_blocks - 1),
        stride_in_1x1=False,
        norm=norm,
    )
    return stages
