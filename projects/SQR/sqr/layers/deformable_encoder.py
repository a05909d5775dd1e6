"""The multi-scale deformable encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..structures import MultiScaleMemory
from .deformable_attention import MultiScaleDeformableAttention
from .mlp import FFN
from .padding import check_divisible
from .position import resize_mask
from .repeated import repeated


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all tokens of all levels, then a feed-forward block; post-norm."""

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            dim=dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference: Tensor,
        padding_mask: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        pixel_sizes: Tensor,
    ) -> Tensor:
        """``tokens`` and ``position`` ``(B, N, C)``, ``reference`` ``(B, N, L, 4)`` -> ``(B, N, C)``."""
        attended = self.self_attn(tokens + position, reference, tokens, padding_mask, spatial_shapes, pixel_sizes)
        tokens = self.norm1(tokens + self.dropout(attended))
        return self.norm2(self.ffn(tokens))


deformable_encoder_layers = repeated(DeformableEncoderLayer, "deformable_encoder_layers", "num_layers")


class DeformableEncoder(nn.Module):
    """Backbone features -> :class:`~sqr.structures.MultiScaleMemory` (Zhu et al., ICLR 2021, section 4.1).

    Args:
        neck: maps backbone features to ``L`` maps ``(B, C, h, w)``, finest first.
        layers: the encoder layers; may be empty.
        position_embedding: ``(B, h, w)`` padding mask -> ``(B, h, w, C)``.
        num_levels: ``L``.
        dim: ``C``.
        ignore_padding: encode an image independently of the padding of its batch; False is as published.
    """

    def __init__(
        self,
        *,
        neck: nn.Module,
        layers: Sequence[nn.Module],
        position_embedding: nn.Module,
        num_levels: int = 4,
        dim: int = 256,
        ignore_padding: bool = False,
    ):
        super().__init__()
        self.neck = neck
        self.ignore_padding = ignore_padding
        self.layers = nn.ModuleList(layers)
        self.position_embedding = position_embedding
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        for layer in self.layers:
            _xavier_linears(layer)

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor) -> MultiScaleMemory:
        """Encode a batch.

        Args:
            features: the backbone's output.
            padding_mask: ``(B, height, width)`` bool of the padded input images, True where padded.
        """
        levels = self.neck(features, padding_mask if self.ignore_padding else None)
        if len(levels) != len(self.level_embed):
            raise ValueError(f"the neck made {len(levels)} levels, the encoder has {len(self.level_embed)}")
        if self.ignore_padding:
            check_divisible(*padding_mask.shape[1:], levels)
        shapes = tuple((x.shape[2], x.shape[3]) for x in levels)
        masks = [resize_mask(padding_mask, shape) for shape in shapes]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)
        position = torch.cat(
            [
                (self.position_embedding(mask).to(tokens.dtype) + embed).flatten(1, 2)
                for mask, embed in zip(masks, self.level_embed, strict=True)
            ],
            dim=1,
        )
        flat_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        valid_ratios = torch.stack([_valid_ratio(mask) for mask in masks], dim=1)
        reference = token_references(shapes, valid_ratios)
        pixel_sizes = (1 / level_sizes(shapes, valid_ratios)).expand_as(valid_ratios)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, flat_mask, shapes, pixel_sizes)
        return MultiScaleMemory(tokens, flat_mask, shapes, valid_ratios, pixel_sizes, self.ignore_padding)


def _valid_ratio(mask: Tensor) -> Tensor:
    """``(B, h, w)`` mask -> ``(B, 2)`` unpadded fraction of width and height."""
    valid = (~mask).float()
    return torch.stack((valid[:, 0].mean(-1), valid[:, :, 0].mean(-1)), dim=-1)


def level_sizes(spatial_shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """``(L, 2)`` width and height of each level, in the dtype and on the device of ``like``."""
    # not new_tensor, which would fix the sizes in an export
    return torch.tensor([(width, height) for height, width in spatial_shapes], dtype=like.dtype, device=like.device)


def token_centres(spatial_shapes: Sequence[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """``(B, N, 2)`` centre (x, y) of each token relative to its image's *unpadded* size."""
    centres, sizes = [], valid_ratios * level_sizes(spatial_shapes, valid_ratios)  # (B, L, 2)
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=torch.float32, device=valid_ratios.device) + 0.5
        x = torch.arange(width, dtype=torch.float32, device=valid_ratios.device) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        centres.append(grid / sizes[:, None, level])
    return torch.cat(centres, dim=1)


def token_references(spatial_shapes: Sequence[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """``(B, N, L, 4)``: every token's centre as a point (zero extent) in the padded extent of every level."""
    points = token_centres(spatial_shapes, valid_ratios)[:, :, None] * valid_ratios[:, None]
    return torch.cat((points, torch.zeros_like(points)), dim=-1)


def _xavier_linears(layer: nn.Module) -> None:
    """The published initialisation of a transformer layer's plain linears; attention initialises itself."""
    for module in layer.modules():
        if isinstance(module, FFN):
            nn.init.xavier_uniform_(module.linear1.weight)
            nn.init.xavier_uniform_(module.linear2.weight)
