"""Every detector at a size that exports in seconds: a backbone of three convolutions, at most two stages, 5 classes."""

from __future__ import annotations

from torch import Tensor, nn

from helpers import build
from small_models import DETECTORS, lively, small_config

EXPORTED = [*DETECTORS, "h_deformable_detr"]
# whose stages are all alike
ONE_STAGE = ["deformable_plain", "deformable_two_stage", "detr", "h_deformable_detr", "adamixer", "dino"]
# with another's encoder
NO_ENCODER = [
    "deformable_refine",
    "deformable_two_stage",
    "h_deformable_detr",
    "dab_deformable_detr",
    "dino",
    "group_detr",
]


class ThreeConvolutions(nn.Module):
    """Features of stride 8, 16 and 32, without a graph worth speaking of."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 16, s, stride=s) for c, s in ((3, 8), (16, 2), (16, 2)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for level, conv in enumerate(self.convs, start=3):
            x = conv(x).relu()
            features[f"res{level}"] = x
        return features


def export_config(detector: str, plan: str = "selective", num_stages: int | None = None):
    """A model config; ``detector`` is one of ``EXPORTED``."""
    num_stages = num_stages or (1 if detector in ONE_STAGE else 2)
    base = "deformable_two_stage" if detector == "h_deformable_detr" else detector
    cfg = small_config(base, plan, num_stages=num_stages)
    if detector in NO_ENCODER:
        cfg.encoder.layers.num_layers = 0
    cfg.backbone = {"_target_": ThreeConvolutions}
    if "deformable" in detector or detector == "dino":
        cfg.encoder.num_levels = 2
        cfg.encoder.neck.in_channels = {"res3": 16, "res4": 16}
        cfg.encoder.layers.num_points = 2
        cfg.decoder.stages.num_points = 2
    elif detector == "adamixer":
        cfg.encoder.neck.in_channels = {"res3": 16, "res4": 16}
        cfg.encoder.strides = [8, 16]
        cfg.decoder.stages.in_points = 4
        cfg.decoder.stages.out_points = 4
    else:
        cfg.encoder.in_feature = "res4"
        cfg.encoder.in_channels = 16
    if detector == "h_deformable_detr":
        cfg.query_generator.num_auxiliary = 5
        cfg.query_generator.mixed_selection = True
    return cfg


def export_model(detector: str, plan: str = "selective", num_stages: int | None = None):
    """A model with random weights, in evaluation mode."""
    return lively(build(export_config(detector, plan, num_stages))).eval()
