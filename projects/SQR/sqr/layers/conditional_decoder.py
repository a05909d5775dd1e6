"""Attention that keeps content and position apart: Conditional DETR (Meng et al., ICCV 2021) and DAB-DETR."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..structures import DenseMemory, KeysAndValues
from .attention import attention, join_heads, split_heads
from .dropout import Dropout
from .initialisation import xavier_uniform_all
from .mlp import FFN, make_activation


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
    """Attention to a memory with content and position side by side in every head.

    A head's query is ``[content | position]`` of ``2 C / H`` channels, so its score is the sum of a content and a
    position product; the position of the query is the sine embedding of its reference.

    Args:
        first: also add the query's and the memory's positions to their contents, as the first stage does. Only then
            ``query_pos_proj`` exists.
    """

    def __init__(self, *, first: bool, dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content_proj = nn.Linear(dim, dim)
        self.query_pos_proj = nn.Linear(dim, dim) if first else None
        self.query_pos_sine_proj = nn.Linear(dim, dim)
        self.key_content_proj = nn.Linear(dim, dim)
        self.key_pos_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, memory: DenseMemory) -> KeysAndValues:
        """What the memory is to this attention; padded tokens get none."""
        key = self.key_content_proj(memory.tokens)
        position = self.key_pos_proj(memory.position)
        if self.query_pos_proj is not None:
            key = key + position
        key = torch.cat([split_heads(x, self.num_heads) for x in (key, position)], dim=-1)
        value = split_heads(self.value_proj(memory.tokens), self.num_heads)
        return KeysAndValues(key.contiguous(), value.contiguous(), ~memory.padding_mask[:, None, None])

    def attend(self, x: Tensor, position: Tensor, sine: Tensor, memory: KeysAndValues) -> Tensor:
        """Attend to the memory.

        Args:
            x: ``(B, Q, C)`` content; groups folded into ``Q``.
            position: ``(B, Q, C)``, used by the first stage only.
            sine: ``(B, Q, C)`` sine embedding of the references, modulated.
            memory: what :meth:`project` made of it.

        Returns:
            ``(B, Q, C)``.
        """
        query = self.query_content_proj(x)
        if self.query_pos_proj is not None:
            query = query + self.query_pos_proj(position)
        query = torch.cat([split_heads(t, self.num_heads) for t in (query, self.query_pos_sine_proj(sine))], dim=-1)
        dropout = self.dropout if self.training else 0.0
        out = attention(query, memory.key, memory.value, mask=memory.attendable, dropout=dropout)
        return self.out_proj(join_heads(out))


class ConditionalDecoderLayer(nn.Module):
    """Self-attention inside a group, attention to the memory, FFN; post-norm. A detector's stage derives from it.

    Args:
        first: see :class:`ConditionalCrossAttention`.
    """

    def __init__(
        self,
        *,
        first: bool,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        activation: str = "relu",
    ):
        super().__init__()
        self.self_attn = ConditionalSelfAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.cross_attn = ConditionalCrossAttention(first=first, dim=dim, num_heads=num_heads, dropout=dropout)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout, activation=make_activation(activation))
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        xavier_uniform_all(self)

    def prepare(self, memory: DenseMemory) -> DenseMemory:
        """The memory with this stage's keys and values."""
        return memory if memory.projected is not None else replace(memory, projected=self.cross_attn.project(memory))

    def attend(self, content: Tensor, position: Tensor, sine: Tensor, memory: DenseMemory) -> Tensor:
        """``(B, G, Q, C)`` content, position and sine embedding -> ``(B, G, Q, C)`` new content."""
        b, g, q, c = content.shape
        # self-attention: groups are a batch of their own, (B*G, Q, C)
        x = content.reshape(b * g, q, c)
        x = self.norm1(x + self.dropout1(self.self_attn(x, position.reshape(b * g, q, c))))
        # everything else: groups are more queries of the same image, (B, G*Q, C)
        x = x.view(b, g * q, c)
        attended = self.cross_attn.attend(
            x, position.reshape(b, g * q, c), sine.reshape(b, g * q, c), self.prepare(memory).projected
        )
        x = self.norm2(x + self.dropout2(attended))
        return self.norm3(self.ffn(x)).view(b, g, q, c)
