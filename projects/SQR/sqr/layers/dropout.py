"""Dropout whose masks are cheap to draw on a CPU and small to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16  # one 64-bit random number holds four 16-bit ones


class Dropout(nn.Dropout):
    """``nn.Dropout``; on a CPU its mask costs a quarter of the time and of the memory.

    PyTorch draws one number an element with ``bernoulli_`` there and keeps the mask as float32: a tenth of a Deformable
    DETR step. Here four elements share one 64-bit number and the mask is kept as bool. The probability is therefore a
    multiple of 1 / 65536, and kept elements are scaled for exactly that one. On other devices, under ``torch.compile``
    and in evaluation it is ``nn.Dropout`` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or not runs_eagerly_on_host(x):
            return super().forward(x)
        keep, scale = keep_mask(x.shape, self.p)
        return torch.where(keep, x, 0.0).mul_(scale)


def runs_eagerly_on_host(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU and nobody traces, compiles or exports."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def keep_mask(shape: Sequence[int], p: float) -> tuple[Tensor, float]:
    """A mask on the CPU, from the global generator.

    Returns:
        bool ``shape``, True where an element is kept, and what kept elements are to be multiplied with.
    """
    dropped = min(max(round(p * _LEVELS), 1), _LEVELS - 1)
    count = torch.Size(shape).numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[:count] >= dropped - _LEVELS // 2
    return keep.view(*shape), _LEVELS / (_LEVELS - dropped)
