"""Operations by plan: of a forward pass, counted by fvcore, and of a whole training step, by PyTorch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..ops.functional import library
from .subjects import without_dropout


class _Traceable(nn.Module):
    """Images and mask to predictions, without the loss: what a tracer can follow."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        memory = self.model.encode_images(images, mask)
        decoded = self.model.decode(memory)
        every = [*decoded.predictions, *filter(None, [decoded.proposals]), *(decoded.auxiliary or [])]
        return [x for p in every for x in (p.logits, p.boxes)]


def forward_flops(model: nn.Module, size: tuple[int, int], images: int) -> dict[str, float]:
    """Multiply-adds of a forward pass in the model's current mode and plan, by part of the model.

    Convolutions, matrix products, attention, norms and the sampling operators are counted, element-wise operations are
    not, as fvcore does.

    Args:
        model: a :class:`~sqr.meta_arch.QueryBasedDetector`.
        size: ``(height, width)`` of the images.
        images: how many.
    """
    device = model.device
    batch = (
        torch.zeros(images, 3, *size, device=device),
        torch.zeros(images, *size, dtype=torch.bool, device=device),
    )
    analysis = FlopCountAnalysis(_Traceable(model), batch)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**HANDLES)
    with torch.no_grad(), without_dropout(model):  # attention with dropout may be a function that fvcore cannot see
        by_module = analysis.by_module()
    return {name: float(by_module[f"model.{name}"]) for name in ("backbone", "encoder", "query_generator", "decoder")}


def step_flops(step: Callable[[], object]) -> float:
    """Multiply-adds of convolutions and matrix products in whatever ``step`` runs, backward passes included.

    Other than three times the forward pass: frozen layers have no backward pass, checkpointed ones two forward passes.
    PyTorch counts a multiplication and an addition each, hence the half.
    """
    with FlopCounterMode(display=False, custom_mapping=STEP_FORMULAS) as counter:
        step()
    return counter.get_total_flops() / 2


def _attention(inputs: list, outputs: list) -> Counter:
    """Queries with keys, and weights with values, which may be of another width."""
    *batch, queries, channels = _shape(inputs[0])
    keys, widths = _shape(inputs[1])[-2], channels + _shape(inputs[2])[-1]
    return Counter({"attention": math.prod(batch) * queries * keys * widths})


def _cpu_attention(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(grad, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _deformable_attention(inputs: list, outputs: list) -> Counter:
    return _sampling(inputs[0], _shape(inputs[3]))


def _adaptive_sample(inputs: list, outputs: list) -> Counter:
    return _sampling(inputs[0], _shape(inputs[4]))


def _adaptive_mix(inputs: list, outputs: list) -> Counter:
    return Counter({"mixing": _mixing(*map(_shape, inputs[:3]))})


def _mixing(sampled: Sequence[int], channel: Sequence[int], spatial: Sequence[int]) -> int:
    """Multiply-adds of mixing channels and then points."""
    return math.prod(sampled) * (channel[-1] + spatial[1])


def _step_mixing(sampled, channel, spatial, *_, out_shape=None, **__) -> int:
    return 2 * _mixing(sampled, channel, spatial)


def _step_mixing_backward(grad, sampled, channel, spatial, *_, out_shape=None, **__) -> int:
    """Two products for each of the forward pass; that the kernel works the forward pass out again is not counted."""
    return 4 * _mixing(sampled, channel, spatial)


def _sampling(value, weights: list[int]) -> Counter:
    """Four corners and a weight for each sampled point, level and channel."""
    return Counter({"sampling": 5 * math.prod(weights) * _shape(value)[-1]})


def _shape(value) -> list[int]:
    return value.type().sizes()


HANDLES = {
    "aten::scaled_dot_product_attention": _attention,
    "sqr::ms_deform_attn": _deformable_attention,
    "sqr::adaptive_sample": _adaptive_sample,
    "sqr::adaptive_mix": _adaptive_mix,
}
"""fvcore's handles of the operators that it does not know."""

STEP_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
"""PyTorch's counter has its formulas for the fused attention of GPUs only."""
if not library.reason:
    STEP_FORMULAS[torch.ops.sqr.adaptive_mix] = _step_mixing
    STEP_FORMULAS[torch.ops.sqr.adaptive_mix_backward] = _step_mixing_backward
