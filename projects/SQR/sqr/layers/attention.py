"""Multi-head attention that keeps no attention matrix."""

from __future__ import annotations

from collections.abc import Iterator

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
            bias: broadcastable to ``(B, H, Q, N)``: added to the scores, or bool, True where attention is allowed; not
                together with ``padding_mask``.

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
    """``scaled_dot_product_attention``, on a CPU with what its fused kernel lacks there.

    With dropout PyTorch would hold the whole attention matrix there, thrice, for the backward pass, and draw its mask
    an element at a time; :class:`_CachedAttention` keeps one byte a weight and works in the cache. Values narrower than
    keys (DAB-DETR) are filled up with zeros, since the kernel takes equal widths alone.

    Args:
        query: ``(B, H, Q, D)``.
        key, value: ``(B, H, N, D)`` and ``(B, H, N, E)``.
        mask: broadcastable to ``(B, H, Q, N)``: bool, True where attention is allowed, or added to the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        ``(B, H, Q, E)``.
    """
    if 0 < dropout < 1 and runs_eagerly_on_host(query) and (mask is None or not mask.requires_grad):
        return _CachedAttention.apply(query, key, value, mask, dropout)
    out = F.scaled_dot_product_attention(query, key, fill_up(value, key), attn_mask=mask, dropout_p=dropout)
    return out[..., : value.shape[-1]]


def fill_up(value: Tensor, key: Tensor) -> Tensor:
    """On a CPU, values ``(..., E)`` with zeros up to the width of their keys; for several calls, do it once."""
    missing = key.shape[-1] - value.shape[-1]
    return F.pad(value, (0, missing)) if missing > 0 and value.device.type == "cpu" else value


class _CachedAttention(torch.autograd.Function):
    """Attention with dropout, a few heads or rows at a time; the backward pass computes the weights again."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        b, h, q, _ = query.shape
        query = (query * query.shape[-1] ** -0.5).contiguous()
        key, value = key.contiguous(), value.contiguous()
        bias = mask
        if mask is not None and mask.dtype == torch.bool:
            bias = query.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        keep = torch.empty((b, h, q, key.shape[2]), dtype=torch.bool)
        out = value.new_empty(b, h, q, value.shape[-1])
        with torch.autocast("cpu", enabled=False):
            for heads, rows in _parts(keep.shape):
                weights = _weights(query[rows], key[heads], _part(bias, keep.shape, rows))
                keep[rows], ctx.scale = keep_mask(weights.shape, dropout)
                torch.matmul(torch.where(keep[rows], weights, 0.0), value[heads], out=out[rows])
        ctx.save_for_backward(query, key, value, bias, keep)
        return out.mul_(ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, bias, keep = ctx.saved_tensors
        grad = grad * ctx.scale
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for heads, rows in _parts(keep.shape):
            weights = _weights(query[rows], key[heads], _part(bias, keep.shape, rows))
            kept = torch.where(keep[rows], weights, 0.0)
            grad_value[heads] += torch.matmul(kept.transpose(-1, -2), grad[rows])
            # softmax's backward pass: w * (dw - sum(dw * w)), and dropped weights have no gradient
            grad_weights = torch.matmul(grad[rows], value[heads].transpose(-1, -2))
            grad_kept = grad_weights.mul_(kept)
            scores = grad_kept.sub_(weights.mul_(grad_kept.sum(-1, keepdim=True)))
            torch.matmul(scores, key[heads], out=grad_query[rows])
            grad_key[heads] += torch.matmul(scores.transpose(-1, -2), query[rows])
        return grad_query.mul_(query.shape[-1] ** -0.5), grad_key, grad_value, None, None


def _parts(shape: torch.Size) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Indices of images and heads, and of these and query rows, to work on at once, of scores ``(B, H, Q, N)``."""
    batch, heads, queries, keys = shape
    images_at_once = max(1, _SCORES_AT_ONCE // (heads * queries * keys))
    heads_at_once = max(1, _SCORES_AT_ONCE // (queries * keys))
    rows_at_once = max(1, _SCORES_AT_ONCE // keys)
    for i in range(0, batch, images_at_once):
        for j in range(0, heads, heads_at_once):
            part = slice(i, i + images_at_once), slice(j, j + heads_at_once)
            for k in range(0, queries, rows_at_once):
                yield part, (*part, slice(k, k + rows_at_once))


def _part(bias: Tensor | None, shape: torch.Size, rows: tuple[slice, ...]) -> Tensor | None:
    return None if bias is None else bias.expand(shape)[rows]


def _weights(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Attention weights of a part, of queries that are scaled."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    return (scores if bias is None else scores.add_(bias)).softmax(-1)
