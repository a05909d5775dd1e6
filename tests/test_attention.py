"""Attention: PyTorch's numbers, and no attention matrix kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sqr.layers import CrossAttention, SelfAttention
from sqr.layers.attention import attention
from sqr.structures import DenseMemory


def tensors(*shape, count: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(count)]


def explicit(query, key, value, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def test_narrow_values_equal_the_formula_and_keep_no_matrix():
    query, key, value = *tensors(3, 2, 5, 8, count=2), *tensors(3, 2, 5, 4, count=1)
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = attention(query, key, value, mask=mask)
    assert not any(x.shape[-2:] == (5, 5) and x.numel() > mask.numel() for x in saved)
    expected = explicit(query, key, value, mask)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), (query, key, value))
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), (query, key, value)))


def test_without_dropout_it_is_pytorchs_kernel():
    query, key, value = tensors(2, 2, 5, 4)
    assert torch.equal(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("positioned", [False, True])
def test_self_attention_equals_pytorchs(positioned):
    torch.manual_seed(0)
    ours, theirs = SelfAttention(dim=16, num_heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x, position = tensors(3, 6, 16, count=2, dtype=torch.float32)
    position = position if positioned else None
    query = x + position if positioned else x
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected = theirs(query, query, x, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(ours(x, position, padding_mask=padding), expected)
    bias = torch.randn(3, 4, 6, 6, requires_grad=True)
    expected = theirs(query, query, x, attn_mask=bias.flatten(0, 1), need_weights=False)[0]
    out = ours(x, position, bias=bias)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.square().sum(), bias)[0] for o in (out, expected)))


def test_cross_attention_equals_pytorchs():
    torch.manual_seed(0)
    ours, theirs = CrossAttention(dim=16, num_heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x, position, tokens, places = tensors(3, 6, 16, count=4, dtype=torch.float32)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected = theirs(x + position, tokens + places, tokens, key_padding_mask=padding, need_weights=False)[0]
    memory = ours.project(DenseMemory(tokens, places, padding))
    torch.testing.assert_close(ours.attend(memory, x, position), expected)
