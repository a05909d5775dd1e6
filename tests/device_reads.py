"""What a host reads from a device, counted where there is none.

On a GPU a read makes the host wait for everything queued before it. A CPU tensor is on the host already, so a test
without a GPU has to say what would lie on the device: the model, whatever is uploaded to its device (``x.to(device)``,
``torch.zeros(..., device=device)``), and everything computed from these. A copy back (``cpu``, ``to("cpu")``) is on the
host again.

Counted are copies (``cpu``, ``numpy``, ``tolist``, ``to``), scalars (``item``, ``bool``, ``float``, comparisons in an
``if``: all ``_local_scalar_dense``), and operators whose output's size depends on numbers, boolean indices among them.
Not seen is what waits without reading, such as an upload from ordinary memory; the test with a GPU has that.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memory_tools import SYNCHRONISING

COPIES = ("cpu", "numpy", "tolist")


class DeviceReads:
    """Within :meth:`counting`, :attr:`reads` names what was read from ``model``'s device, in order."""

    def __init__(self, model: nn.Module):
        self.reads: list[str] = []
        self._on_device: set[int] = set()
        self._moving = False
        for tensor in (*model.parameters(), *model.buffers()):
            self.put(tensor)

    @contextlib.contextmanager
    def counting(self) -> Iterator[DeviceReads]:
        with _Functions(self), _Operators(self):
            yield self

    def put(self, tensor: Tensor) -> Tensor:
        """Say that a tensor lies on the device."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._on_device:
            self._on_device.add(storage._cdata)
            weakref.finalize(storage, self._on_device.discard, storage._cdata)
        return tensor

    def holds(self, *values: object) -> bool:
        """Whether any tensor among the values lies on the device."""
        tensors = (x for x in tree_leaves(values) if isinstance(x, Tensor))
        return any(x.untyped_storage()._cdata in self._on_device for x in tensors)

    def moved(self, tensor: Tensor) -> Tensor:
        """A copy that is on the host, whatever it is made of."""
        self._moving = True
        try:
            return tensor.clone()
        finally:
            self._moving = False


class _Functions(TorchFunctionMode):
    """Copies in both directions, which dispatch nothing on a CPU."""

    def __init__(self, device: DeviceReads):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        places = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, (str, torch.device))]
        held = bool(args) and isinstance(args[0], Tensor) and self.device.holds(args[0])
        if held and (name in COPIES or (name == "to" and "cpu" in places)):
            self.device.reads.append(name)
            return func(self.device.moved(args[0]), *args[1:], **kwargs)
        out = func(*args, **kwargs)
        uploaded = name == "to" and not held and any(isinstance(place, torch.device) for place in places)
        if uploaded:
            return self.device.put(self.device.moved(out))
        made = isinstance(kwargs.get("device"), torch.device) or (held and name.startswith("new_"))
        return self.device.put(out) if made and isinstance(out, Tensor) else out


class _Operators(TorchDispatchMode):
    """Operators that read, and what is computed on the device, in the backward pass too."""

    def __init__(self, device: DeviceReads):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        held = self.device.holds(args, kwargs) and not self.device._moving
        out = func(*args, **kwargs)
        if held:
            name = func.__name__.partition(".")[0]
            mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
            if name in SYNCHRONISING or mask:
                self.device.reads.append(name)
            for tensor in filter(lambda x: isinstance(x, Tensor), tree_leaves(out)):
                self.device.put(tensor)
        return out
