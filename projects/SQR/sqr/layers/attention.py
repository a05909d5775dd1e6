"""Multi-head self-attention and cross-attention through PyTorch's fused kernels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import DenseMemory, KeysAndValues


class _Attention(nn.MultiheadAttention):
    """The parameters and the state dict of ``nn.MultiheadAttention``.

    Args:
        dim: channels ``C``.
        num_heads: ``H``, a divisor of ``dim``.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout=dropout, batch_first=True)

    def _project(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """The projections ``first`` to ``last`` of query (0), key (1) and value (2) of one input, split into heads."""
        rows = slice(first * self.embed_dim, (last + 1) * self.embed_dim)
        joint = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return [split_heads(part, self.num_heads) for part in joint.split(self.embed_dim, dim=-1)]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(join_heads(attention(query, key, value, mask=mask, dropout=dropout)))


class SelfAttention(_Attention):
    """Self-attention; positions enter queries and keys only."""

    def forward(
        self,
        x: Tensor,
        position: Tensor | None = None,
        *,
        padding_mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: ``(B, Q, C)``.
            position: ``(B, Q, C)``, added to queries and keys.
            padding_mask: ``(B, Q)`` bool, True where padded, which is not attended to.
            bias: broadcastable to ``(B, H, Q, Q)``: added to the scores, or bool, True where attention is allowed; not
                together with ``padding_mask``.

        Returns:
            ``(B, Q, C)``.
        """
        if position is None:
            query, key, value = self._project(x, 0, 2)
        else:
            query, key = self._project(x + position, 0, 1)
            (value,) = self._project(x, 2, 2)
        return self._attend(query, key, value, bias if padding_mask is None else ~padding_mask[:, None, None])


class CrossAttention(_Attention):
    """Attention to a memory whose keys and values are projected once for several calls."""

    def project(self, memory: DenseMemory) -> KeysAndValues:
        """Keys and values of the memory; padded tokens are masked."""
        (key,), (value,) = self._project(memory.tokens_with_position, 1, 1), self._project(memory.tokens, 2, 2)
        return KeysAndValues(key.contiguous(), value.contiguous(), ~memory.padding_mask[:, None, None])

    def attend(self, memory: KeysAndValues, x: Tensor, position: Tensor) -> Tensor:
        """Attend with ``(B, Q, C)`` queries and their positions, groups folded into ``Q``; returns ``(B, Q, C)``."""
        (query,) = self._project(x + position, 0, 0)
        return self._attend(query, memory.key, memory.value, memory.attention_mask)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``(B, Q, C)`` -> ``(B, H, Q, C / H)``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """``(B, H, Q, D)`` -> ``(B, Q, H * D)``."""
    return x.transpose(1, 2).flatten(2)


def attention(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """``scaled_dot_product_attention``, also fused on CPUs if values are narrower than keys (DAB-DETR).

    Args:
        query: ``(B, H, Q, D)``.
        key, value: ``(B, H, N, D)`` and ``(B, H, N, E)``.
        mask: broadcastable to ``(B, H, Q, N)``: bool, True where attention is allowed, or added to the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        ``(B, H, Q, E)``.
    """
    out = F.scaled_dot_product_attention(query, key, pad_to_key(value, key), attn_mask=mask, dropout_p=dropout)
    return out[..., : value.shape[-1]]


def pad_to_key(value: Tensor, key: Tensor) -> Tensor:
    """Pad values ``(..., E)`` with zeros to the width of their keys on a CPU, whose fused kernel requires it."""
    missing = key.shape[-1] - value.shape[-1]
    return F.pad(value, (0, missing)) if missing > 0 and value.device.type == "cpu" else value
