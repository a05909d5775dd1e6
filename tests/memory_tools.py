"""Counting operators, what is kept for the backward pass and what leaves the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONISING = (
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_dim",
    "masked_select",
    "equal",
    "is_nonzero",
    "repeat_interleave",
    "bincount",
)


class CountOperators(TorchDispatchMode):
    """Counts every operator; :attr:`synchronising` are those that would make a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    @property
    def synchronising(self) -> dict[str, int]:
        return {name: self.calls[name] for name in SYNCHRONISING if self.calls[name]}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def kept_bytes(run: Callable[[], object], which: Callable[[Tensor], bool]) -> int:
    """Bytes of the tensors that ``run`` keeps for its backward pass, each storage once, where ``which`` holds."""
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        if which(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(run())
    return sum(storages.values())
