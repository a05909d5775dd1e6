"""Sine position embeddings of images and of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_encoding(x: Tensor, *, dim: int, temperature: float = 10000.0) -> Tensor:
    """Interleaved sine and cosine of a scalar at ``dim / 2`` frequencies (Vaswani et al., 2017).

    Args:
        x: any shape, already multiplied by the scale (``2 * pi`` for normalised coordinates).
        dim: even number of features per scalar.

    Returns:
        ``(..., dim)``: sin, cos, sin, cos, ... from the highest frequency to the lowest.
    """
    exponent = torch.arange(dim, dtype=x.dtype, device=x.device).div(2, rounding_mode="floor") * (2 / dim)
    angle = x[..., None] / temperature**exponent
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


def box_encoding(boxes: Tensor, *, dim: int) -> Tensor:
    """Sine encoding of points or boxes at scale ``2 pi``, in the order of Conditional DETR and DAB-DETR: y, x, w, h.

    Args:
        boxes: ``(..., R)`` normalised (x, y) or cxcywh.
        dim: features per coordinate.

    Returns:
        ``(..., R * dim)``.
    """
    x, y, *size = (boxes * (2 * math.pi)).unbind(-1)
    return torch.cat([sine_encoding(value, dim=dim) for value in (y, x, *size)], dim=-1)


class SinePositionEmbedding(nn.Module):
    """Position embedding of image features, normalised by each image's unpadded size (Carion et al., DETR).

    Args:
        dim: channels, half for y and half for x.
        temperature: 10000 in DETR and Deformable DETR, 20 for DAB-DETR's image features.
        offset: added to the pixel count before it is normalised: 0 in DETR and DAB-DETR, -0.5 in Deformable DETR.
        periods: of the highest frequency over the image: 1 in all of them (their scale is ``2 pi * periods``). Small
            feature maps and short trainings benefit from more: neighbours then differ from the first iteration on.
    """

    def __init__(self, *, dim: int = 256, temperature: float = 10000.0, offset: float = 0.0, periods: float = 1.0):
        super().__init__()
        self.dim, self.temperature, self.offset, self.periods = dim, temperature, offset, periods

    def forward(self, padding_mask: Tensor) -> Tensor:
        """``(B, h, w)`` bool, True where padded -> ``(B, h, w, dim)`` float32, y before x."""
        valid = (~padding_mask).float()
        embeddings = []
        for axis in (1, 2):
            position = valid.cumsum(axis)
            position = (position + self.offset) / (position.narrow(axis, -1, 1) + 1e-6) * (2 * math.pi * self.periods)
            embeddings.append(sine_encoding(position, dim=self.dim // 2, temperature=self.temperature))
        return torch.cat(embeddings, dim=-1)


def resize_mask(padding_mask: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, height, width)`` bool of the padded images -> ``(B, h, w)`` bool of a feature map, nearest neighbour."""
    return F.interpolate(padding_mask[None].float(), size=tuple(size))[0].bool()
