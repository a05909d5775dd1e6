"""The encoder of detectors that attend to all tokens of one level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..structures import DenseMemory
from .attention import SelfAttention
from .initialisation import xavier_uniform_all
from .mlp import FFN, MLP, make_activation
from .position import resize_mask
from .repeated import repeated


class DenseEncoderLayer(nn.Module):
    """Self-attention over all tokens, then a feed-forward block; post-norm. Position enters queries and keys only."""

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
    ):
        super().__init__()
        self.self_attn = SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout, activation=make_activation(activation))
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, padding_mask: Tensor) -> Tensor:
        """``tokens`` and ``position`` ``(B, N, C)``, ``padding_mask`` ``(B, N)`` True where padded -> ``(B, N, C)``."""
        attended = self.self_attn(tokens, position, padding_mask=padding_mask)
        tokens = self.norm1(tokens + self.dropout(attended))
        return self.norm2(self.ffn(tokens))


dense_encoder_layers = repeated(DenseEncoderLayer, "dense_encoder_layers", "num_layers")


class DenseEncoder(nn.Module):
    """One backbone feature -> :class:`~sqr.structures.DenseMemory` (Carion et al., DETR, ECCV 2020, section 3.2).

    Args:
        layers: the encoder layers; may be empty.
        position_embedding: ``(B, h, w)`` padding mask -> ``(B, h, w, C)``.
        in_feature: the backbone feature to encode.
        in_channels: its channels.
        dim: ``C``.
        scale_position: in every layer, multiply the position by a learned function of the tokens (DAB-DETR). The
            memory's position stays unscaled.
    """

    def __init__(
        self,
        *,
        layers: Sequence[nn.Module],
        position_embedding: nn.Module,
        in_feature: str = "res5",
        in_channels: int = 2048,
        dim: int = 256,
        scale_position: bool = False,
    ):
        super().__init__()
        self.in_feature = in_feature
        self.input_proj = nn.Conv2d(in_channels, dim, 1)
        self.layers = nn.ModuleList(layers)
        self.position_embedding = position_embedding
        self.query_scale = (
            MLP(in_dim=dim, hidden_dim=dim, out_dim=dim, num_layers=2) if scale_position and layers else None
        )
        xavier_uniform_all(self.layers)
        if self.query_scale is not None:
            xavier_uniform_all(self.query_scale)

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor) -> DenseMemory:
        """Encode a batch.

        Args:
            features: the backbone's output.
            padding_mask: ``(B, height, width)`` bool of the padded input images, True where padded.
        """
        x = self.input_proj(features[self.in_feature])
        mask = resize_mask(padding_mask, x.shape[-2:])
        tokens = x.flatten(2).transpose(1, 2)
        position = self.position_embedding(mask).to(tokens.dtype).flatten(1, 2)
        mask = mask.flatten(1)
        for layer in self.layers:
            scaled = position if self.query_scale is None else position * self.query_scale(tokens)
            tokens = layer(tokens, scaled, mask)
        return DenseMemory(tokens, position, mask)
