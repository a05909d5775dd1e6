"""Adaptive 3-D sampling of a feature pyramid and adaptive mixing of the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import adaptive_mix, adaptive_sample, autocast_dtype

Generators = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


class AdaptiveSampling(nn.Module):
    """Samples features at points that a query chooses in x, y and scale (Gao et al., AdaMixer, CVPR 2022, section 3.2).

    Channels are split into ``F`` feature groups with ``P`` points each.

    Args:
        dim: channels ``C`` of the queries.
        num_points: ``P``.
        num_feature_groups: ``F``.
    """

    def __init__(self, *, dim: int = 256, num_points: int = 32, num_feature_groups: int = 4):
        super().__init__()
        self.num_points, self.num_feature_groups = num_points, num_feature_groups
        self.offsets = nn.Linear(dim, num_feature_groups * num_points * 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: points spread over the box (a regular grid where ``P`` is a square), one level finer."""
        nn.init.zeros_(self.offsets.weight)
        bias = self.offsets.bias.data.view(self.num_feature_groups, self.num_points, 3)
        side = int(self.num_points**0.5)
        if side * side == self.num_points:
            ticks = (torch.arange(side) + 0.5) / side - 0.5
            bias[..., :2] = torch.cartesian_prod(ticks, ticks)
        else:
            nn.init.uniform_(bias, -0.5, 0.5)
        bias[..., 2] = -1.0

    def forward(
        self,
        query: Tensor,
        boxes: Tensor,
        scale: Tensor,
        tokens: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        scales: Tensor,
    ) -> Tensor:
        """Sample around each query's box.

        Args:
            query: ``(B, Q, C)``; recollected groups folded into ``Q``.
            boxes: ``(B, Q, 4)`` cxcywh in pixels of the padded input image; offsets are in units of the box's size.
            scale: ``(B, Q, 1)`` binary logarithm of the box's mean side; offsets in scale add to it. A point reads
                level ``l`` in proportion to ``exp(-(z - log2(stride_l)) ** 2 / 2)``.
            tokens: ``(B, N, F * D)``.
            spatial_shapes: ``(h, w)`` of each level.
            strides: of each level, on the host.
            scales: ``(B, L)`` binary logarithms of the strides, on the device.

        Returns:
            ``(B, Q, F, P, D)``.
        """
        b, q, _ = query.shape
        groups = self.num_feature_groups
        offsets = self.offsets(query).to(boxes.dtype).view(b, q, groups, self.num_points, 3)
        centre, size = boxes[:, :, None, None].chunk(2, dim=-1)
        points = centre + offsets[..., :2] * size
        z = scale[:, :, None, None] + offsets[..., 2:]
        weights = ((z - scales[:, None, None, None]) ** 2 / -2).softmax(-1)
        value = tokens.view(b, tokens.shape[1], groups, -1)
        return adaptive_sample(value, spatial_shapes, strides, points, weights).to(query.dtype)


class AdaptiveMixing(nn.Module):
    """Mixes channels, then points, by matrices that the query generates (Gao et al., AdaMixer, section 3.3).

    Args:
        dim: channels ``C`` of queries and features, a multiple of ``num_feature_groups``.
        in_points: ``P``, sampled points per feature group.
        out_points: points after mixing.
        num_feature_groups: ``F``.
    """

    def __init__(self, *, dim: int = 256, in_points: int = 32, out_points: int = 128, num_feature_groups: int = 4):
        super().__init__()
        if dim % num_feature_groups:
            raise ValueError(f"dim={dim} must be a multiple of num_feature_groups={num_feature_groups}")
        self.in_points, self.out_points, self.num_feature_groups = in_points, out_points, num_feature_groups
        self.group_dim = dim // num_feature_groups
        self.split = (self.group_dim**2, out_points * in_points)
        self.parameter_generator = nn.Linear(dim, num_feature_groups * sum(self.split))
        self.out_proj = nn.Linear(num_feature_groups * out_points * self.group_dim, dim)
        nn.init.zeros_(self.parameter_generator.weight)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, query: Tensor, sampled: Tensor, generators: Generators) -> Tensor:
        """Mix.

        Args:
            query: ``(B, Q, C)``.
            sampled: ``(B, Q, F, P, D)``.
            generators: from :meth:`generators`.

        Returns:
            ``query`` plus the projected mixture, ``(B, Q, C)``.
        """
        b, q, f, p, d = sampled.shape
        # matrices of channels (B*Q, F * D * D) and of points (B*Q, F * P_out * P)
        channel, spatial = (F.linear(query.flatten(0, 1), *generator) for generator in generators)
        n = b * q * f
        x = adaptive_mix(sampled.view(n, p, d), channel.view(n, d, d), spatial.view(n, self.out_points, p))
        return query + self.out_proj(x.view(b, q, -1))  # from (B*Q*F, P_out, D)

    def generators(self) -> Generators:
        """Weight and bias of the generator of channel matrices, and of the generator of point matrices.

        They are halves of one layer. Two products avoid joining the gradients of one product's halves, a copy of 131 kB
        per query. The halves copy the weight (33 MB, in autocast's dtype), so compute them once for all calls.
        """
        halves = []
        for parameter in (self.parameter_generator.weight, self.parameter_generator.bias):
            dtype = autocast_dtype(parameter) or parameter.dtype
            parts = parameter.unflatten(0, (self.num_feature_groups, -1)).split(self.split, dim=1)
            halves.append([part.flatten(0, 1).to(dtype) for part in parts])
        (channel, spatial), (channel_bias, spatial_bias) = halves
        return (channel, channel_bias), (spatial, spatial_bias)
