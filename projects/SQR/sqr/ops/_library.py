"""Loads the compiled operators and registers what PyTorch needs in addition to their kernels.

The extension is a plain shared library: loading it registers the schemas and kernels of ``torch.ops.sqr.*``.
Here they get fake kernels (for ``torch.compile`` and ``torch.export``), autograd and autocast.
"""

from __future__ import annotations

import ctypes
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = Path(__file__).resolve().parent.parent
BUILD_INFO = Path(__file__).resolve().parent / "build_info.json"
OPERATORS = ("ms_deform_attn", "adaptive_sample", "adaptive_mix")


@dataclass(frozen=True)
class Library:
    """The state of the extension after import.

    Attributes:
        path: of the loaded extension, or ``None``.
        reason: why there is none, in one line; empty if there is one.
        build_info: written by setup.py (compiler, PyTorch, CUDA architectures).
    """

    path: Path | None
    reason: str
    build_info: dict = field(default_factory=dict)

    @property
    def has_cuda(self) -> bool:
        return self.path is not None and torch._C._dispatch_has_kernel_for_dispatch_key("sqr::ms_deform_attn", "CUDA")

    def instruction_set(self) -> str:
        """The instruction set of the CPU kernels in use."""
        function = ctypes.CDLL(str(self.path)).sqr_instruction_set
        function.restype = ctypes.c_char_p
        return function().decode()

    def set_instruction_set(self, name: str) -> None:
        """Run the CPU kernels of another instruction set: ``x86-64-v4``, ``x86-64-v3`` or ``baseline``.

        Raises:
            ValueError: the set was not built or this machine does not support it.
        """
        if ctypes.CDLL(str(self.path)).sqr_set_instruction_set(name.encode()) != 0:
            raise ValueError(f"the CPU kernels have no instruction set {name!r} on this machine")


def load() -> Library:
    """Load the extension beside the package, if setup.py built one, and register its operators."""
    info = json.loads(BUILD_INFO.read_text()) if BUILD_INFO.exists() else {}
    if os.environ.get("SQR_OPS") == "reference":
        return Library(None, "SQR_OPS=reference asks for the PyTorch reference", info)
    if info.get("failure"):
        return Library(None, f"not built at install time: {info['failure']}", info)
    paths = sorted(PACKAGE.glob("_C*.so"))
    if not paths:
        return Library(None, "no compiled extension beside the package; reinstall it to build one", info)
    try:
        torch.ops.load_library(paths[0])
    except OSError as error:
        return Library(
            None, f"{paths[0].name} does not load into PyTorch {torch.__version__}: {_one_line(error)}", info
        )
    missing = [name for name in OPERATORS if not hasattr(torch.ops.sqr, name)]
    if missing:
        return Library(
            None, f"{paths[0].name} is older than this package, it has no {missing[0]}; build it again", info
        )
    register("sqr")
    return Library(paths[0], "", info)


def register(namespace: str) -> None:
    """Register fake kernels, autograd and autocast for the operators of a loaded library."""
    operators = getattr(torch.ops, namespace)
    _register_pair(
        f"{namespace}::ms_deform_attn",
        operators.ms_deform_attn_backward.default,
        fake=lambda value, shapes, locations, weights: value.new_empty(
            (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        ),
        tensors=(0, 2, 3),
        atomics=True,
    )
    _register_pair(
        f"{namespace}::adaptive_sample",
        operators.adaptive_sample_backward.default,
        fake=lambda value, shapes, strides, points, weights: value.new_empty((*points.shape[:4], value.shape[3])),
        tensors=(0, 3, 4),
        atomics=True,
    )
    _register_pair(
        f"{namespace}::adaptive_mix",
        operators.adaptive_mix_backward.default,
        fake=lambda sampled, channel, spatial, epsilon: sampled.new_empty(
            (sampled.shape[0], spatial.shape[1], sampled.shape[2])
        ),
        tensors=(0, 1, 2),
        atomics=False,
    )


def _register_pair(name: str, backward_op, fake, tensors: tuple[int, ...], atomics: bool) -> None:
    """Register an operator and its backward operator, which takes the output's gradient before the same arguments.

    Args:
        tensors: which arguments are tensors, all of which have gradients.
        atomics: whether the backward pass on CUDA adds in a nondeterministic order.
    """

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*[inputs[i] for i in tensors])
        ctx.constants = [None if i in tensors else x for i, x in enumerate(inputs)]

    def backward(ctx, grad):
        if atomics and grad.is_cuda:
            _alert_not_deterministic(f"{name}_backward")
        arguments = list(ctx.constants)
        for i, x in zip(tensors, ctx.saved_tensors, strict=True):
            arguments[i] = x
        grads = [None] * len(arguments)
        for i, x in zip(tensors, backward_op(grad, *arguments), strict=True):
            grads[i] = x
        return tuple(grads)

    def fake_backward(grad, *arguments):
        return tuple(arguments[i].new_empty(arguments[i].shape) for i in tensors)

    def refuse(ctx, *grads):
        raise RuntimeError(
            f"{name} has no second derivative. Use sqr.ops.use_reference() around the forward pass where one "
            "is needed, or create_graph=False."
        )

    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    torch.library.register_autocast(name, "cpu", torch.float32)
    torch.library.register_fake(f"{name}_backward", fake_backward)
    # Without this formula PyTorch would return wrong second derivatives with only a warning.
    torch.library.register_autograd(f"{name}_backward", refuse)


def _alert_not_deterministic(name: str) -> None:
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = f"{name} adds with atomics on CUDA, in an order that changes from run to run."
    if torch.is_deterministic_algorithms_warn_only_enabled():
        warnings.warn(message, stacklevel=2)
    else:
        raise RuntimeError(
            f"{message} torch.use_deterministic_algorithms(True) forbids that; allow it with warn_only=True, "
            "or use sqr.ops.use_reference()."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def accumulation_dtype(value: Tensor) -> torch.dtype:
    """The dtype of locations, weights and sums: float64 for float64 values, float32 for all others."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32
