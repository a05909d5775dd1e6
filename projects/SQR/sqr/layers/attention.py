"""Multi-head attention that keeps no attention matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import keep_mask, runs_eagerly_on_host

_SCORES_AT_ONCE = 1 << 18  # 1 MiB of float32: stays in a core's cache


class MultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention``, batch first, through :func:`attention`; parameters and state dict are its own.

    Args:
        dim: channels ``C``.
        num_heads: ``H``, a divisor of ``dim``.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout=dropout, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        padding_mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``(B, Q, C)``.
            key, value: ``(B, N, C)``; handing the same tensor in twice saves a projection's launch.
            padding_mask: ``(B, N)`` bool, True where padded: no query attends there.
            bias: ``(B, H, Q, N)``, added to the scores; not together with ``padding_mask``.

        Returns:
            ``(B, Q, C)``.
        """
        q, k, v = (split_heads(x, self.num_heads) for x in self._project(query, key, value))
        mask = bias if padding_mask is None else ~padding_mask[:, None, None]
        out = attention(q, k, v, mask=mask, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(join_heads(out))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value projections; neighbours of the same input in one product."""
        inputs, c = (query, key, value), self.embed_dim
        projected, start = [], 0
        while start < 3:
            stop = start + 1
            while stop < 3 and inputs[stop] is inputs[start]:
                stop += 1
            rows = slice(start * c, stop * c)
            joint = F.linear(inputs[start], self.in_proj_weight[rows], self.in_proj_bias[rows])
            projected += joint.split(c, dim=-1)
            start = stop
        return projected


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``(B, Q, C)`` -> ``(B, H, Q, C / H)``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """``(B, H, Q, D)`` -> ``(B, Q, H * D)``."""
    return x.transpose(1, 2).flatten(2)


def attention(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """``scaled_dot_product_attention``, and on a CPU, where PyTorch has no fused kernel for the case, one of our own.

    These cases are dropout, and values narrower than keys (DAB-DETR). There PyTorch would hold the whole attention
    matrix, thrice with dropout, for the backward pass, and draw its dropout mask an element at a time;
    :class:`_CachedAttention` keeps one byte a dropped weight, nothing without dropout, and works in the cache.

    Args:
        query: ``(B, H, Q, D)``.
        key, value: ``(B, H, N, D)`` and ``(B, H, N, E)``.
        mask: broadcastable to ``(B, H, Q, N)``: bool, True where attention is allowed, or added to the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        ``(B, H, Q, E)``.
    """
    no_kernel = dropout > 0 or key.shape[-1] != value.shape[-1]
    if no_kernel and runs_eagerly_on_host(query) and dropout < 1 and (mask is None or not mask.requires_grad):
        return _CachedAttention.apply(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class _CachedAttention(torch.autograd.Function):
    """Attention, with dropout or without, a few heads at a time; the backward pass computes the weights again."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        b, h, q, _ = query.shape
        n = key.shape[2]
        query = (query * query.shape[-1] ** -0.5).contiguous()
        key, value = key.contiguous(), value.contiguous()
        keep, ctx.scale = (torch.empty((b, h, q, n), dtype=torch.bool) if dropout else None), 1.0
        out = value.new_empty(b, h, q, value.shape[-1])
        with torch.autocast("cpu", enabled=False):
            for part in _parts(b, h, q * n):
                weights = _weights(query[part], key[part], mask, part, (b, h, q, n))
                if keep is not None:
                    keep[part], ctx.scale = keep_mask(weights.shape, dropout)
                    weights = torch.where(keep[part], weights, 0.0)
                torch.matmul(weights, value[part], out=out[part])
        ctx.save_for_backward(query, key, value, mask, keep)
        return out.mul_(ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, mask, keep = ctx.saved_tensors
        b, h, q, _ = query.shape
        n = key.shape[2]
        grad = grad * ctx.scale
        grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
        for part in _parts(b, h, q * n):
            weights = _weights(query[part], key[part], mask, part, (b, h, q, n))
            kept = weights if keep is None else torch.where(keep[part], weights, 0.0)
            torch.matmul(kept.transpose(-1, -2), grad[part], out=grad_value[part])
            # softmax's backward pass: w * (dw - sum(dw * w)), and dropped weights have no gradient
            grad_weights = torch.matmul(grad[part], value[part].transpose(-1, -2))
            grad_kept = grad_weights.mul_(kept)
            scores = grad_kept.sub_(weights.mul_(grad_kept.sum(-1, keepdim=True)))
            torch.matmul(scores, key[part], out=grad_query[part])
            torch.matmul(scores.transpose(-1, -2), query[part], out=grad_key[part])
        return grad_query.mul_(query.shape[-1] ** -0.5), grad_key, grad_value, None, None


def _parts(batch: int, heads: int, scores: int) -> list[tuple[slice, slice]]:
    """Indices of images and heads to work on at once."""
    images = max(1, min(batch, _SCORES_AT_ONCE // (heads * scores)))
    heads_at_once = heads if images > 1 else max(1, min(heads, _SCORES_AT_ONCE // scores))
    return [
        (slice(i, i + images), slice(j, j + heads_at_once))
        for i in range(0, batch, images)
        for j in range(0, heads, heads_at_once)
    ]


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, part: tuple[slice, slice], shape: tuple[int, ...]
) -> Tensor:
    """Attention weights of a part."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    if mask is not None:
        mask = mask.expand(shape)[part]
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return scores.softmax(-1)
