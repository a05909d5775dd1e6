"""Multi-scale deformable attention as a module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..boxes import is_point
from ..ops import ms_deform_attn, operand


class MultiScaleDeformableAttention(nn.Module):
    """Attention that samples a few points around a reference on every level (Zhu et al., ICLR 2021, section 4.1).

    Args:
        dim: channels ``C``.
        num_heads: ``H``, a divisor of ``dim``.
        num_levels: ``L``.
        num_points: ``P``, sampling points per head and level.
    """

    def __init__(self, *, dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} must be a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: head ``h`` has direction ``2 pi h / H``, point ``p`` distance ``p + 1`` pixels."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        ring = direction[:, None, None] * distance[:, None]  # (H, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        padding_mask: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        pixel_sizes: Tensor,
    ) -> Tensor:
        """Attend to the memory.

        Args:
            query: ``(B, Q, C)``; groups folded into ``Q``, so that the value is projected once for all groups.
            reference: ``(B, Q, L, 4)`` normalised cxcywh in each level's *padded* extent. Around a box, offsets are
                in units of half its size over ``P``; around a point (zero extent), in pixels of the level.
            tokens: ``(B, N, C)`` memory.
            padding_mask: ``(B, N)`` bool, True where padded; padded values count as zero.
            spatial_shapes: ``(h, w)`` of each level.
            pixel_sizes: ``(B, L, 2)`` size of a pixel relative to each level's padded width and height.

        Returns:
            ``(B, Q, C)``.
        """
        return self.attend(query, reference, self.project(tokens, padding_mask), spatial_shapes, pixel_sizes)

    def project(self, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        """``(B, N, C)`` memory -> ``(B, N, H, D)`` values for the operator, zero where padded."""
        value = self.value_proj(tokens).masked_fill(padding_mask[..., None], 0)
        return operand(value.unflatten(-1, (self.num_heads, -1)))

    def attend(
        self,
        query: Tensor,
        reference: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        pixel_sizes: Tensor,
    ) -> Tensor:
        """As :meth:`forward`, with the result of :meth:`project`."""
        b, q, _ = query.shape
        h, l, p = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query).view(b, q, h, l, p, 2)
        weights = self.attention_weights(query).view(b, q, h, l * p).softmax(-1).view(b, q, h, l, p)
        unit = torch.where(is_point(reference), pixel_sizes[:, None], reference[..., 2:] * (0.5 / p))
        locations = reference[:, :, None, :, None, :2] + offsets * unit[:, :, None, :, None]
        return self.output_proj(ms_deform_attn(value, spatial_shapes, locations, weights).to(query.dtype))
