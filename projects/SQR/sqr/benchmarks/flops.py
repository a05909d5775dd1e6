"""Operations of a training step, forward and backward, as PyTorch counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..ops.functional import library


def step_flops(step: Callable[[], object]) -> float:
    """Multiply-adds of convolutions, matrix products, attention and mixing in ``step``, backward passes included.

    PyTorch counts a multiplication and an addition each, hence the half. Sampling is not counted.
    """
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        step()
    return counter.get_total_flops() / 2


def _attention(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _mixing(sampled: Sequence[int], channel: Sequence[int], spatial: Sequence[int], *_, **__) -> int:
    """Two products: of channels and of points."""
    return 2 * math.prod(sampled) * (channel[-1] + spatial[1])


def _mixing_backward(grad, *shapes, **__) -> int:
    """Two products for each of the forward pass; that the kernel repeats the forward pass is not counted."""
    return 2 * _mixing(*shapes)


FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Of operators that PyTorch's counter does not know: the fused attention of CPUs, and mixing."""
if not library.reason:
    FORMULAS[torch.ops.sqr.adaptive_mix] = _mixing
    FORMULAS[torch.ops.sqr.adaptive_mix_backward] = _mixing_backward
