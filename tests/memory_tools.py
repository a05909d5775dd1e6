"""Counting what lives, what is kept for the backward pass and what leaves the device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class PeakOf(TorchDispatchMode):
    """Largest sum, at any time, of ``measure`` over the tensors that operators made and that still live."""

    def __init__(self, measure: Callable[[Tensor], int]):
        super().__init__()
        self.measure, self.now, self.peak, self.largest = measure, 0, 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage, size = tensor.untyped_storage(), self.measure(tensor)
        key = storage._cdata
        if size == 0 or key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


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
