"""Prediction heads that several detectors share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import autocast_dtype, without_autocast
from .mlp import MLP


def make_heads(*, num_classes: int, dim: int = 256, prior: float = 0.01) -> tuple[nn.Linear, MLP]:
    """A class head whose bias makes every class's first probability ``prior``, and a box head that starts at zero."""
    class_embed = nn.Linear(dim, num_classes)
    nn.init.constant_(class_embed.bias, -math.log((1 - prior) / prior))
    bbox_embed = MLP(in_dim=dim, hidden_dim=dim, out_dim=4, num_layers=3)
    nn.init.zeros_(bbox_embed.layers[-1].weight)
    nn.init.zeros_(bbox_embed.layers[-1].bias)
    return class_embed, bbox_embed


def in_float32(network: nn.Module, x: Tensor) -> Tensor:
    """``network(x)`` in float32 at least, under autocast too: what coordinates are made of.

    bfloat16 has 8 significant bits: a reference point or a box offset that a layer rounds to it is off by several
    pixels of a large image, and casting the result afterwards does not bring them back.
    """
    if autocast_dtype(x) is None:
        out = network(x)
        return out.to(torch.promote_types(out.dtype, torch.float32))
    with without_autocast(x):
        return network(x.float())
