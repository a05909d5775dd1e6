"""Attention and dropout: PyTorch's numbers, one mask forward and backward, little kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sqr.layers import Dropout, MultiheadAttention
from sqr.layers.attention import attention
from sqr.layers.dropout import keep_mask


def tensors(*shape, count: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(count)]


def explicit(query, key, value, mask, keep, scale):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) * keep * scale) @ value


@pytest.mark.parametrize(
    "scores_at_once", [1, 12, 60, 1 << 18], ids=["row by row", "two rows", "image by image", "at once"]
)
@pytest.mark.parametrize("kind", ["no mask", "padding", "bias"])
def test_attention_with_dropout_equals_the_formula_with_the_same_mask(kind, scores_at_once, monkeypatch):
    monkeypatch.setattr("sqr.layers.attention._SCORES_AT_ONCE", scores_at_once)
    masks = []
    draw = keep_mask
    monkeypatch.setattr("sqr.layers.attention.keep_mask", lambda *a: masks.append(draw(*a)) or masks[-1])
    query, key, value = tensors(3, 2, 5, 4)
    mask = {"no mask": None, "padding": torch.ones(3, 1, 1, 5, dtype=torch.bool), "bias": torch.randn(3, 2, 5, 5)}[kind]
    if kind == "padding":
        mask[1, ..., 3:] = False
    out = attention(query, key, value, mask=mask, dropout=0.4)
    keep = torch.cat([m.flatten() for m, _ in masks]).view(3, 2, 5, 5)
    assert not keep.all()
    expected = explicit(query, key, value, mask, keep, masks[0][1])
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    torch.testing.assert_close(ours, theirs)


def test_attention_with_dropout_keeps_one_byte_a_weight():
    query, key, value = tensors(2, 2, 50, 4, dtype=torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        attention(query, key, value, dropout=0.1)
    matrices = [x for x in saved if x.numel() == 2 * 2 * 50 * 50]
    assert [x.dtype for x in matrices] == [torch.bool]
    assert sum(x.nbytes for x in saved) == 3 * query.nbytes + 2 * 2 * 50 * 50


def test_narrow_values_equal_the_formula_and_keep_no_matrix():
    query, key, value = *tensors(3, 2, 5, 8, count=2), *tensors(3, 2, 5, 4, count=1)
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = attention(query, key, value, mask=mask)
    assert not any(x.shape[-2:] == (5, 5) and x.numel() > mask.numel() for x in saved)
    expected = explicit(query, key, value, mask, 1, 1)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), (query, key, value))
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), (query, key, value)))


def test_without_dropout_it_is_pytorchs_kernel():
    query, key, value = tensors(2, 2, 5, 4)
    assert torch.equal(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("same", ["all", "query and key", "none"])
def test_module_equals_pytorchs(same):
    torch.manual_seed(0)
    ours, theirs = MultiheadAttention(dim=16, num_heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x, y, z = tensors(3, 6, 16, dtype=torch.float32)
    query, key, value = {"all": (x, x, x), "query and key": (x, x, y), "none": (x, y, z)}[same]
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected = theirs(query, key, value, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(ours(query, key, value, padding_mask=padding), expected)
    bias = torch.randn(3, 4, 6, 6, requires_grad=True)
    expected = theirs(query, key, value, attn_mask=bias.flatten(0, 1), need_weights=False)[0]
    out = ours(query, key, value, bias=bias)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.square().sum(), bias)[0] for o in (out, expected)))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_that_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(1000, 401, requires_grad=True)
    out = Dropout(p)(x)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert out.mean().item() == pytest.approx(1, abs=0.005)
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], out)
    # neighbours share a random number, but not their fate
    dropped = (out == 0).float().flatten()[: 401_000 // 4 * 4].view(-1, 4) - p
    covariance = dropped.T @ dropped / len(dropped)
    torch.testing.assert_close(covariance, torch.eye(4) * p * (1 - p), rtol=0.05, atol=0.005)


def test_dropout_repeats_under_a_seed_and_keeps_a_byte_an_element():
    x = torch.ones(64, 64, requires_grad=True)
    saved, outputs = [], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(Dropout(0.1)(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert {t.dtype for t in saved if t.numel() == x.numel()} == {torch.bool}


def test_dropout_that_does_nothing():
    x = torch.ones(4)
    assert Dropout(0.5).eval()(x) is x or torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(4))


def test_bfloat16():
    query, key, value = tensors(2, 2, 8, 4, dtype=torch.float32)
    torch.manual_seed(0)
    exact = attention(query, key, value, dropout=0.2)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), dropout=0.2)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)
    half.float().sum().backward()
    assert query.grad is not None and torch.isfinite(query.grad).all()
