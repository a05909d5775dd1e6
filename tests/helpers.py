"""What several tests share: where the golden files are, small models, small batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from sqr.boxes import xyxy_to_cxcywh
from sqr.targets import Targets

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def golden_file(name: str) -> dict:
    """A file of official outputs that lie beside the repository; skips the test where they do not."""
    path = SHARED / "golden" / name
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT.parent)} is not beside the repository")
    return torch.load(path, weights_only=True)


def model_config(name: str = "deformable_detr_r50"):
    """The model node of configs/models/NAME.py."""
    return recipe(f"models/{name}").model


def recipe(name: str):
    """The shipped config configs/NAME.py."""
    return LazyConfig.load(str(ROOT / "configs" / f"{name}.py"))


def shrink(cfg, *, num_classes: int = 5, num_queries: int = 7, num_stages: int = 6):
    """Narrow a Deformable DETR config to what a test can run in a second: C 32, one encoder layer, no dropout."""
    cfg.num_classes = num_classes
    cfg.backbone.stages.depth = 18
    del cfg.backbone.stages.stride_in_1x1  # the basic block of ResNet-18 has no such choice
    cfg.encoder.neck.in_channels = {"res3": 128, "res4": 256, "res5": 512}
    cfg.encoder.dim = 32
    cfg.encoder.layers.num_layers = 1
    cfg.encoder.layers.num_heads = 4
    cfg.encoder.layers.ffn_dim = 48
    cfg.encoder.layers.dropout = 0.0
    cfg.encoder.neck.num_norm_groups = 8
    cfg.query_generator.num_queries = num_queries
    cfg.decoder.stages.num_stages = num_stages
    return cfg


def random_targets(counts, *, num_classes: int = 5, seed: int = 0) -> Targets:
    """Valid objects, ``counts[i]`` of image i."""
    generator = torch.Generator().manual_seed(seed)
    labels, boxes = [], []
    for n in counts:
        corners = torch.rand(n, 2, 2, generator=generator).sort(dim=1).values.flatten(1)
        corners[:, 2:] = (corners[:, 2:] + 0.05).clamp(max=1.0)
        labels.append(torch.randint(num_classes, (n,), generator=generator))
        boxes.append(xyxy_to_cxcywh(corners))
    return Targets.from_lists(labels, boxes)


def random_batch(sizes, counts, *, num_classes: int = 5, seed: int = 0) -> list[dict]:
    """Detectron2 training inputs: random images of the given ``(height, width)`` with ``counts`` objects each."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for i, ((height, width), n) in enumerate(zip(sizes, counts, strict=True)):
        low = torch.rand(n, 2, generator=generator) * 0.6
        high = low + 0.1 + torch.rand(n, 2, generator=generator) * 0.3
        instances = Instances((height, width))
        scale = torch.tensor([width, height, width, height])
        instances.gt_boxes = Boxes(torch.cat((low, high), dim=1) * scale)
        instances.gt_classes = torch.randint(num_classes, (n,), generator=generator)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append(
            {
                "image": image,
                "instances": instances,
                "image_id": f"image-{i}",
                "height": height,
                "width": width,
            }
        )
    return batch


def build(cfg, seed: int = 0):
    """Instantiate a config node under a seed."""
    torch.manual_seed(seed)
    return instantiate(cfg)
