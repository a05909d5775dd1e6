"""Pure-PyTorch references of the operators: what tests compare with, and what runs where nothing was compiled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, equation 3), by ``grid_sample``.

    Args:
        value: ``(B, N, H, D)``, the levels' tokens one after another, ``N = sum(h * w)``.
        spatial_shapes: ``(h, w)`` of each level, on the host.
        sampling_locations: ``(B, Q, H, L, P, 2)`` as (x, y), where (0, 0) is the top left corner of a level's
            first pixel and (1, 1) the bottom right corner of its last; outside of it values are zero.
        attention_weights: ``(B, Q, H, L, P)``.

    Returns:
        ``(B, Q, H * D)``: for each query and head the weighted sum of the bilinear samples of all levels and points.
    """
    b, _, h, d = value.shape
    q, num_levels, p = sampling_locations.shape[1], len(spatial_shapes), sampling_locations.shape[4]
    grids = (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).reshape(num_levels, b * h, q, p, 2)
    sampled = []
    for level, tokens in zip(
        grids, value.split([height * width for height, width in spatial_shapes], dim=1), strict=True
    ):
        height, width = spatial_shapes[len(sampled)]
        image = tokens.permute(0, 2, 3, 1).reshape(b * h, d, height, width)
        sampled.append(
            F.grid_sample(image, level, mode="bilinear", padding_mode="zeros", align_corners=False)
        )
    weights = attention_weights.transpose(1, 2).reshape(b * h, 1, q, num_levels * p)
    out = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B*H, D, Q)
    return out.view(b, h * d, q).transpose(1, 2)
