"""Bytes of live tensors, counted operation by operation, on real tensors or on fake ones without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Counts, inside this context, the bytes of all storages that operations allocate, until they are freed.

    Memory that an operation allocates and frees internally (the workspace of a convolution) is not counted.

    Args:
        measure: what to count for a new tensor instead of its storage's bytes; 0 leaves it out.

    Attributes:
        live: bytes alive now.
        peak: the most that were alive at once.
    """

    def __init__(self, measure: Callable[[Tensor], int] | None = None):
        super().__init__()
        self._measure = measure or (lambda tensor: tensor.untyped_storage().nbytes())
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were created outside this context."""
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages or not (size := self._measure(tensor)):
            return

        def freed(_: weakref.ref) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
