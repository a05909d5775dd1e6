"""Prediction heads that several detectors share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import autocast_dtype, without_autocast
from .mlp import MLP


def make_heads(*, num_classes: int, dim: int = 256, prior: float = 0.01) -> tuple[nn.Linear, MLP]:
    """A class head whose bias gives every class the initial probability ``prior``, and a zero-initialised box head."""
    class_embed = nn.Linear(dim, num_classes)
    nn.init.constant_(class_embed.bias, -math.log((1 - prior) / prior))
    bbox_embed = MLP(in_dim=dim, hidden_dim=dim, out_dim=4, num_layers=3)
    nn.init.zeros_(bbox_embed.layers[-1].weight)
    nn.init.zeros_(bbox_embed.layers[-1].bias)
    return class_embed, bbox_embed


def in_float32(network: nn.Module, x: Tensor) -> Tensor:
    """``network(x)`` in at least float32, also under autocast, for coordinates.

    bfloat16 has 8 significant bits: a reference point or a box offset rounded to it is off by several
    pixels in a large image, and casting the result afterwards does not restore the precision.
    """
    if autocast_dtype(x) is None:
        out = network(x)
        return out.to(torch.promote_types(out.dtype, torch.float32))
    with without_autocast(x):
        return network(x.float())
