"""Predicted peak memory of a training step, without data.

The step runs on PyTorch's fake tensors, which have sizes but no data, and the bytes of live tensors are counted after
each operation. The assignment of queries to objects, which needs numbers, is replaced by an arbitrary one.

Workspaces inside operators, fragmentation of the allocator and the CUDA context are not counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..layers import adaptive_mixing
from ..ops.reference import adaptive_mix_reference
from ..recollection import Plan
from ..targets import Targets
from .executions import running
from .live_memory import LiveMemory

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Prediction:
    """Bytes of a training step: of parameters and buffers, of all gradients, of the optimizer's state, and the peak."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int


class Rehearsal:
    """A config's model without data.

    Args:
        cfg: as returned by :func:`~sqr.benchmarks.subjects.load_subject_config`.
        device: the device to predict for, one of ``DEVICES``.

    Raises:
        ValueError: the model cannot be built.
    """

    def __init__(self, cfg: DictConfig, *, device: str):
        self._device, self._fake = device, FakeTensorMode(allow_non_fake_inputs=True)
        self._optimizer_ratio = optimizer_state_ratio(cfg)
        self._amp_dtype = getattr(torch, cfg.train.amp.dtype)
        with self._without_data():
            self.model = instantiate(cfg.model).train()
        self.model.criterion.matcher = _AnyAssignment(self.model.criterion.matcher)

    def step(
        self,
        plan: Plan,
        *,
        size: tuple[int, int],
        images: int,
        objects: int,
        execution: str | None = "folded",
        amp: bool = False,
        accumulating: bool = False,
    ) -> Prediction:
        """Predict the peak of a step after the first.

        Args:
            plan: of the decoder.
            size: ``(height, width)`` of the padded batch.
            images: in the batch.
            objects: per image.
            execution: one of ``EXECUTIONS``; None keeps the config's options.
            amp: under autocast to the config's dtype.
            accumulating: with the gradients of earlier parts of the batch in memory.

        Raises:
            ValueError: the model cannot run on this size.
        """
        model, memory = self.model, LiveMemory()
        parameters = [p for p in model.parameters() if p.requires_grad]
        memory.add([*model.parameters(), *model.buffers()])
        held, gradients = memory.live, sum(p.nbytes for p in parameters)
        labels, boxes = torch.zeros(objects, dtype=torch.int64), torch.full((objects, 4), 0.5)
        targets = Targets.from_lists([labels] * images, [boxes] * images, device="cpu")
        try:
            with running(model, plan, execution), self._without_data(), memory:
                if accumulating:
                    for parameter in parameters:
                        parameter.grad = torch.empty_like(parameter)
                self._forward_and_backward((images, *size), targets, amp)
        finally:
            model.zero_grad()
        optimizer = int(self._optimizer_ratio * gradients)
        return Prediction(held, gradients, optimizer, memory.peak + optimizer)

    def _forward_and_backward(self, shape: tuple[int, int, int], targets: Targets, amp: bool) -> None:
        model, (images, height, width) = self.model, shape
        with torch.autocast("cpu", self._amp_dtype, enabled=amp):
            mask = torch.zeros(images, height, width, dtype=torch.bool)
            memory = model.encode_images(torch.empty(images, 3, height, width), mask)
            losses = model.losses(model.decode(memory, targets), targets)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        del losses
        total.backward()

    @contextlib.contextmanager
    def _without_data(self) -> Iterator[None]:
        with self._fake, _AnyNumbers(), _like_cuda() if self._device == "cuda" else contextlib.nullcontext():
            yield


def optimizer_state_ratio(cfg: DictConfig) -> float:
    """Bytes of optimizer state per byte of trainable parameters: 2 for Adam."""
    target = cfg.optimizer["_target_"]
    options = {key: value for key, value in cfg.optimizer.items() if key not in ("_target_", "params")}
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    optimizer = (locate(target) if isinstance(target, str) else target)([weight], **options)
    optimizer.step()
    return sum(x.nbytes for x in optimizer.state[weight].values() if isinstance(x, Tensor) and x.dim()) / weight.nbytes


class _AnyNumbers(TorchDispatchMode):
    """Handles operations whose result depends on data: a mask selects everything, a scalar is 1."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype is torch.bool:
            mask = args[1][0]
            return args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return func(*args, **(kwargs or {}))


class _AnyAssignment:
    """Replaces the matcher: the i-th object of every group gets the i-th query; the costs take their memory."""

    def __init__(self, matcher):
        self._matcher = matcher

    def __getattr__(self, name: str):
        return getattr(self._matcher, name)

    def __call__(self, problems: Sequence) -> list[Tensor]:
        held, found = [], []
        for problem in problems:
            logits, counts = problem.prediction.logits, problem.targets.counts
            _, groups, queries, _ = logits.shape
            held.append(logits.new_empty(groups * sum(counts) * queries))
            found.append(torch.cat([torch.arange(n) for n in counts]).expand(groups, -1))
        return found


@contextlib.contextmanager
def _like_cuda() -> Iterator[None]:
    """Make CPU tensors save for the backward pass what CUDA tensors would; with fake CUDA tensors that needs a GPU.

    Attention is PyTorch's memory-efficient kernel, mixing is PyTorch's, and autocast runs normalisation and softmax in
    float32. What the sampling operators read under autocast, and values padded to the width of their keys (DAB-DETR),
    are counted as on a CPU, which is slightly more.
    """
    with contextlib.ExitStack() as stack:
        for owner, name in ((F, "layer_norm"), (F, "group_norm"), (F, "softmax"), (Tensor, "softmax")):
            stack.enter_context(mock.patch.object(owner, name, _in_float32(getattr(owner, name))))
        stack.enter_context(mock.patch.object(F, "dropout", _fused_dropout))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _efficient_attention))
        stack.enter_context(mock.patch.object(adaptive_mixing, "adaptive_mix", adaptive_mix_reference))
        yield


def _in_float32(function: Callable) -> Callable:
    return lambda x, *args, **kwargs: function(x if x.dtype == torch.float64 else x.float(), *args, **kwargs)


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and 0 < p < 1 else x


def _efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """``scaled_dot_product_attention`` with the kernel that a GPU would run; ``(B, H, Q, D)`` -> ``(B, H, Q, E)``."""
    operands = [query, key, value]
    if torch.is_autocast_enabled("cpu"):
        operands = [x.to(torch.get_autocast_dtype("cpu")) for x in operands]
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=operands[0].dtype).masked_fill_(~bias, -torch.inf)
        length = bias.shape[-1]  # the kernel pads it to a multiple of 16
        bias = F.pad(bias.to(operands[0].dtype), (0, -length % 16))[..., :length]
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(*operands, bias, torch.is_grad_enabled(), dropout_p)[0]
