"""Proposals of a two-stage encoder: a box for each of its tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import MultiScaleMemory
from .deformable_encoder import token_centres
from .heads import in_float32


def propose(
    memory: MultiScaleMemory, *, at_least: int, project: nn.Module, class_embed: nn.Module, bbox_embed: nn.Module
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score every token and predict its box.

    Args:
        memory: invalid tokens are set to zero.
        at_least: minimum number of tokens to return; an image with fewer, such as a strip, gets invalid tokens.
        project: ``C -> C``, applied to the tokens first.
        class_embed, bbox_embed: heads, ``C -> K`` and ``C -> 4``.

    Returns:
        ``(B, N, C)`` projected tokens, ``(B, N, K)`` logits, ``(B, N, 4)`` logits of boxes (infinite for
        invalid tokens), and ``(B, N)`` bool, True for tokens that must not be chosen: none as published, where padding
        may be chosen; invalid tokens if the memory ignores padding.
    """
    anchors, invalid = token_anchors(memory)
    lacking = max(0, at_least - memory.tokens.shape[1])
    anchors = F.pad(anchors, (0, 0, 0, lacking), value=math.inf)
    invalid = F.pad(invalid, (0, 0, 0, lacking), value=True)
    tokens = project(F.pad(memory.tokens, (0, 0, 0, lacking)).masked_fill(invalid, 0))
    barred = invalid[..., 0] if memory.ignores_padding else torch.zeros_like(invalid[..., 0])
    return tokens, class_embed(tokens), in_float32(bbox_embed, tokens) + anchors, barred


def token_anchors(memory: MultiScaleMemory) -> tuple[Tensor, Tensor]:
    """Each token's prior box in logit space, and which tokens are invalid.

    Returns:
        ``(B, N, 4)`` logits of cxcywh (a square of ``0.05 * 2 ** level`` at the token's centre; infinite where
        invalid) and ``(B, N, 1)`` bool, True for padding and for priors not inside (0.01, 0.99).
    """
    centres = token_centres(memory.spatial_shapes, memory.valid_ratios)
    sizes = torch.cat(
        [centres.new_full((h * w, 2), 0.05 * 2.0**level) for level, (h, w) in enumerate(memory.spatial_shapes)]
    )
    anchors = torch.cat((centres, sizes.expand_as(centres)), dim=-1)
    inside = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True)
    invalid = ~inside | memory.padding_mask[..., None]
    return torch.log(anchors / (1 - anchors)).masked_fill(invalid, math.inf), invalid
