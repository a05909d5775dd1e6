"""Finds tensors that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinity: one fused reduction if there are none."""
    floats = {key: t for key, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floats or torch.isfinite(get_total_norm(floats.values(), math.inf)):
        return []
    return [key for key, tensor in floats.items() if not torch.isfinite(tensor).all()]


def describe_not_finite(names: list[str], total: int) -> str:
    """``3 of 321 tensors are not finite (model.a, model.b, ...)``."""
    return f"{len(names)} of {total} tensors are not finite ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
