"""Prediction heads that several detectors share."""

from __future__ import annotations

import math

from torch import nn

from .mlp import MLP


def make_heads(*, num_classes: int, dim: int = 256, prior: float = 0.01) -> tuple[nn.Linear, MLP]:
    """A class head whose bias makes every class's first probability ``prior``, and a box head that starts at zero."""
    class_embed = nn.Linear(dim, num_classes)
    nn.init.constant_(class_embed.bias, -math.log((1 - prior) / prior))
    bbox_embed = MLP(in_dim=dim, hidden_dim=dim, out_dim=4, num_layers=3)
    nn.init.zeros_(bbox_embed.layers[-1].weight)
    nn.init.zeros_(bbox_embed.layers[-1].bias)
    return class_embed, bbox_embed
