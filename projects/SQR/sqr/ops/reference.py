"""Pure-PyTorch references of the operators, for tests and for installations without compiled operators."""

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
    """Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021), by ``grid_sample``.

    Args:
        value: ``(B, N, H, D)``, the levels' tokens concatenated, ``N = sum(h * w)``.
        spatial_shapes: ``(h, w)`` of each level, on the host.
        sampling_locations: ``(B, Q, H, L, P, 2)`` as (x, y), where (0, 0) is the top left corner of a level's
            first pixel and (1, 1) the bottom right corner of its last; outside it, values are zero, and a
            location that is not finite counts as outside.
        attention_weights: ``(B, Q, H, L, P)``.

    Returns:
        ``(B, Q, H * D)``: for each query and head the weighted sum of the bilinear samples of all levels and
        points.
    """
    b, _, h, d = value.shape
    q, num_levels, p = sampling_locations.shape[1], len(spatial_shapes), sampling_locations.shape[4]
    grids = _finite(2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).reshape(num_levels, b * h, q, p, 2)
    sampled = []
    for level, tokens in zip(
        grids, value.split([height * width for height, width in spatial_shapes], dim=1), strict=True
    ):
        height, width = spatial_shapes[len(sampled)]
        image = tokens.permute(0, 2, 3, 1).reshape(b * h, d, height, width)
        sampled.append(F.grid_sample(image, level, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = attention_weights.transpose(1, 2).reshape(b * h, 1, q, num_levels * p)
    out = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B*H, D, Q)
    return out.view(b, h * d, q).transpose(1, 2)


def adaptive_sample_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    points: Tensor,
    level_weights: Tensor,
) -> Tensor:
    """AdaMixer's sampling of a feature pyramid (Gao et al., CVPR 2022, section 3.2), by ``grid_sample``.

    Args:
        value: ``(B, N, G, D)``, the levels' pixels concatenated, ``N = sum(h * w)``.
        spatial_shapes: ``(h, w)`` of each level, on the host.
        strides: of each level, in pixels of the padded input image.
        points: ``(B, Q, G, P, 2)`` as (x, y) in pixels of the padded input image; outside a level, values
            are zero, and a point that is not finite counts as outside.
        level_weights: ``(B, Q, G, P, L)``.

    Returns:
        ``(B, Q, G, P, D)``: for each point the weighted sum of the levels' bilinear samples.
    """
    b, _, g, d = value.shape
    q, p = points.shape[1], points.shape[3]
    points = points.transpose(1, 2).reshape(b * g, q, p, 2)
    weights = level_weights.permute(4, 0, 2, 1, 3).reshape(len(strides), b * g, 1, q, p)
    out = value.new_zeros(b * g, d, q, p)
    tokens_of_levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    for tokens, (height, width), stride, weight in zip(tokens_of_levels, spatial_shapes, strides, weights, strict=True):
        image = tokens.permute(0, 2, 3, 1).reshape(b * g, d, height, width)
        unit = [2 / (width * stride), 2 / (height * stride)]
        # not new_tensor, which would fix the sizes in an export
        unit = torch.tensor(unit, dtype=points.dtype, device=points.device)
        grid = _finite(points * unit - 1)
        out = out + weight * F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.view(b, g, d, q, p).permute(0, 3, 1, 4, 2).contiguous()


def _finite(grid: Tensor) -> Tensor:
    """``grid`` in ``grid_sample``'s [-1, 1] with non-finite values moved outside an image of any size."""
    return grid.nan_to_num(nan=-4.0, posinf=4.0, neginf=-4.0)


def adaptive_mix_reference(sampled: Tensor, channel: Tensor, spatial: Tensor, epsilon: float = 1e-5) -> Tensor:
    """AdaMixer's adaptive mixing (Gao et al., CVPR 2022, section 3.3), by batched products.

    Args:
        sampled: ``(N, P, D)``.
        channel: ``(N, D, D)``, mixes channels.
        spatial: ``(N, P_out, P)``, mixes points.
        epsilon: added to variances.

    Returns:
        ``(N, P_out, D)``.
    """
    mixed = _norm_relu(sampled @ channel, epsilon)
    return _norm_relu(spatial @ mixed, epsilon)


def _norm_relu(x: Tensor, epsilon: float) -> Tensor:
    """Normalise over points and channels together, without scale and shift."""
    return F.relu(F.layer_norm(x, x.shape[-2:], eps=epsilon), inplace=True)
