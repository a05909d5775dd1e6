"""Attention of queries to a memory whose keys and values are projected once, however many calls follow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..structures import KeysAndValues
from .attention import MultiheadAttention, attention, join_heads, split_heads


class MemoryAttention(MultiheadAttention):
    """:class:`~sqr.layers.MultiheadAttention` in two halves; parameters and state dict are the same."""

    def project(self, keys: Tensor, values: Tensor, padding_mask: Tensor) -> KeysAndValues:
        """What the memory is to this attention.

        Args:
            keys, values: ``(B, N, C)``.
            padding_mask: ``(B, N)`` bool, True where padded: no query attends there.
        """
        c = self.embed_dim
        key = F.linear(keys, self.in_proj_weight[c : 2 * c], self.in_proj_bias[c : 2 * c])
        value = F.linear(values, self.in_proj_weight[2 * c :], self.in_proj_bias[2 * c :])
        key, value = (split_heads(x, self.num_heads).contiguous() for x in (key, value))
        return KeysAndValues(key, value, ~padding_mask[:, None, None])

    def attend(self, query: Tensor, memory: KeysAndValues) -> Tensor:
        """``(B, Q, C)`` -> ``(B, Q, C)``; groups folded into ``Q``."""
        c = self.embed_dim
        query = split_heads(F.linear(query, self.in_proj_weight[:c], self.in_proj_bias[:c]), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(
            join_heads(attention(query, memory.key, memory.value, mask=memory.attendable, dropout=dropout))
        )
