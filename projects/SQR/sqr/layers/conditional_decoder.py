"""Attention that separates content and position: Conditional DETR (Meng et al., ICCV 2021) and DAB-DETR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..structures import DenseMemory, KeysAndValues
from .attention import attention, join_heads, pad_to_key, split_heads
from .dense_decoder import DenseDecoderLayer
from .initialisation import xavier_uniform_all
from .mlp import MLP


class ConditionalSelfAttention(nn.Module):
    """Self-attention whose queries and keys are sums of a projected content and a projected position."""

    def __init__(self, *, dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content_proj = nn.Linear(dim, dim)
        self.query_pos_proj = nn.Linear(dim, dim)
        self.key_content_proj = nn.Linear(dim, dim)
        self.key_pos_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``(B, Q, C)`` twice -> ``(B, Q, C)``."""
        query = self.query_content_proj(x) + self.query_pos_proj(position)
        key = self.key_content_proj(x) + self.key_pos_proj(position)
        query, key, value = (split_heads(t, self.num_heads) for t in (query, key, self.value_proj(x)))
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(join_heads(attention(query, key, value, dropout=dropout)))


class ConditionalCrossAttention(nn.Module):
    """Attention to a memory with concatenated content and position in every head.

    A head's query is ``[content | position]`` of ``2 C / H`` channels, so its score is the sum of a content and a
    position product; the position of the query is the sine embedding of its reference.

    ``query_pos_proj`` is None except in the first stage, which also adds the query's and the memory's positions to
    their contents.
    """

    def __init__(self, *, dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content_proj = nn.Linear(dim, dim)
        self.query_pos_proj = None
        self.query_pos_sine_proj = nn.Linear(dim, dim)
        self.key_content_proj = nn.Linear(dim, dim)
        self.key_pos_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, memory: DenseMemory) -> KeysAndValues:
        """Keys and values of the memory; padded tokens are masked."""
        key = self.key_content_proj(memory.tokens)
        position = self.key_pos_proj(memory.position)
        if self.query_pos_proj is not None:
            key = key + position
        key = torch.cat([split_heads(x, self.num_heads) for x in (key, position)], dim=-1)
        value = pad_to_key(split_heads(self.value_proj(memory.tokens), self.num_heads), key)
        return KeysAndValues(key.contiguous(), value.contiguous(), ~memory.padding_mask[:, None, None])

    def attend(self, memory: KeysAndValues, x: Tensor, position: Tensor, sine: Tensor) -> Tensor:
        """Attend to the memory.

        Args:
            memory: from :meth:`project`.
            x: ``(B, Q, C)`` content; groups folded into ``Q``.
            position: ``(B, Q, C)``, used by the first stage only.
            sine: ``(B, Q, C)`` sine embedding of the references, modulated.

        Returns:
            ``(B, Q, C)``.
        """
        query = self.query_content_proj(x)
        if self.query_pos_proj is not None:
            query = query + self.query_pos_proj(position)
        query = torch.cat([split_heads(t, self.num_heads) for t in (query, self.query_pos_sine_proj(sine))], dim=-1)
        dropout = self.dropout if self.training else 0.0
        out = attention(query, memory.key, memory.value, mask=memory.attention_mask, dropout=dropout)
        return self.out_proj(join_heads(out[..., : self.value_proj.out_features // self.num_heads]))


class ConditionalDecoderLayer(DenseDecoderLayer):
    """A decoder layer whose cross-attention also takes the sine embedding of the references.

    Args:
        special_first: whether the first stage differs: it adds positions to contents in the cross-attention and does
            not scale the sine embedding (so ``query_scale`` is None). False if the only stage was a later one.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        activation: str = "relu",
        special_first: bool = True,
    ):
        super().__init__(
            self_attn=ConditionalSelfAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            cross_attn=ConditionalCrossAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            dim=dim,
            ffn_dim=ffn_dim,
            dropout=dropout,
            activation=activation,
        )
        self.special_first = special_first
        self.query_scale: nn.Module | None = MLP(in_dim=dim, hidden_dim=dim, out_dim=dim, num_layers=2)
        xavier_uniform_all(self.query_scale)

    def make_first(self) -> None:
        if self.special_first:
            dim = self.cross_attn.out_proj.in_features
            self.cross_attn.query_pos_proj = nn.Linear(dim, dim)
            xavier_uniform_all(self.cross_attn.query_pos_proj)
            self.query_scale = None
