"""Names of a ResNet's parameters."""

from __future__ import annotations

from .conversion import Rules

# torchvision's names of a ResNet, under {p}, to Detectron2's
_RESNET = [
    (r"{p}conv1\.(.+)", r"backbone.stem.conv1.\1"),
    (r"{p}.*num_batches_tracked", None),
    (r"{p}bn1\.(.+)", r"backbone.stem.conv1.norm.\1"),
    (r"{p}layer1\.(\d+)\.(.+)", r"backbone.res2.\1.\2"),
    (r"{p}layer2\.(\d+)\.(.+)", r"backbone.res3.\1.\2"),
    (r"{p}layer3\.(\d+)\.(.+)", r"backbone.res4.\1.\2"),
    (r"{p}layer4\.(\d+)\.(.+)", r"backbone.res5.\1.\2"),
]
_RESNET_BLOCK = [
    (r"bn(\d)\.(.+)", r"conv\1.norm.\2"),
    (r"downsample\.0\.(.+)", r"shortcut.\1"),
    (r"downsample\.1\.(.+)", r"shortcut.norm.\1"),
    (r"(conv\d\..+)", r"\1"),
]


def resnet_rules(prefix: str) -> Rules:
    """Rules for a torchvision-style ResNet whose keys start with ``prefix`` (a regular expression)."""
    rules = [(pattern.format(p=prefix), new) for pattern, new in _RESNET[:3]]
    for pattern, new in _RESNET[3:]:
        stem = pattern.format(p=prefix).removesuffix("(.+)")
        target = new.removesuffix(r"\2")
        for block_pattern, block_new in _RESNET_BLOCK:
            shifted = block_new.replace(r"\2", r"\3").replace(r"\1", r"\2")
            rules.append((stem + block_pattern, target + shifted))
    return rules


DETECTRON2_RESNET: Rules = [(r"(backbone\.(?:stem|res\d)\..+)", r"\1")]
"""Rules for a Detectron2 ResNet, whose names are this package's own."""
