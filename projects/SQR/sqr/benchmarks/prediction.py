"""The peak memory of a training step, predicted without running it.

The step is run on PyTorch's fake tensors, which have sizes and no data, and the bytes of live tensors are counted after
each operation: parameters, old gradients and optimizer state, everything saved for the backward pass, and what lives
for a moment. Only the assignment of queries to objects, which needs numbers, is replaced by an arbitrary one. Not
counted: workspaces inside operators, the allocator's fragments, the CUDA context, DistributedDataParallel's buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..targets import Targets
from .live_memory import LiveMemory


@dataclass(frozen=True)
class Prediction:
    """Bytes of a training step of a number of images.

    Attributes:
        parameters: parameters and buffers.
        gradients: of all trainable parameters.
        optimizer: its state.
        peak: the highest moment of a step, all of that included.
    """

    parameters: int
    gradients: int
    optimizer: int
    peak: int


def predict(cfg: DictConfig, *, size: tuple[int, int], images: int, objects: int) -> Prediction:
    """Predict the peak of the config's own plan and options.

    Args:
        cfg: of :func:`~sqr.benchmarks.subjects.load_subject_config`.
        size: ``(height, width)`` of the padded batch.
        images: how many on one device.
        objects: of each image.

    Raises:
        ValueError: the model cannot be built, or run on this size.
    """
    targets = Targets.from_lists(
        [torch.zeros(objects, dtype=torch.int64)] * images, [torch.full((objects, 4), 0.5)] * images
    )
    ratio = optimizer_state_ratio(cfg)
    with FakeTensorMode(allow_non_fake_inputs=True), _AnyNumbers():
        model = instantiate(cfg.model).train()
        return _step(model, cfg, targets, (images, *size), ratio)


def _step(
    model: nn.Module, cfg: DictConfig, targets: Targets, shape: tuple[int, int, int], optimizer_ratio: float
) -> Prediction:
    """One step after others: old gradients and the optimizer's state are there."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    memory = LiveMemory()
    memory.add([*model.parameters(), *model.buffers()])
    held = memory.live
    gradients = sum(p.nbytes for p in parameters)
    optimizer = int(optimizer_ratio * gradients)
    with memory:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        losses = _forward(model, cfg, targets, shape)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        del losses
        for parameter in parameters:
            parameter.grad = None
        total.backward()
    return Prediction(held, gradients, optimizer, memory.peak + optimizer)


def _forward(model: nn.Module, cfg: DictConfig, targets: Targets, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    images, height, width = shape
    amp = cfg.train.amp
    with torch.autocast("cpu", getattr(torch, amp.dtype), enabled=amp.enabled):
        mask = torch.zeros(images, height, width, dtype=torch.bool)
        memory = model.encoder(model.backbone(torch.empty(images, 3, height, width)), mask)
        predictions, proposals, auxiliary = model.decode(memory)
        criterion = model.criterion
        criterion.matcher = _AnyAssignment(criterion.matcher)
        return criterion(predictions, model.decoder.active_plan, targets, proposals, auxiliary)


def optimizer_state_ratio(cfg: DictConfig) -> float:
    """Bytes of the config's optimizer state a byte of trainable parameters: 2 for Adam."""
    target = cfg.optimizer["_target_"]
    options = {key: value for key, value in cfg.optimizer.items() if key not in ("_target_", "params")}
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    optimizer = (locate(target) if isinstance(target, str) else target)([weight], **options)
    optimizer.step()
    state = [x for x in optimizer.state[weight].values() if isinstance(x, Tensor) and x.dim()]
    return sum(x.nbytes for x in state) / weight.nbytes


class _AnyNumbers(TorchDispatchMode):
    """Answers questions about numbers that fake tensors cannot: a mask selects everything, a scalar is 1."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype is torch.bool:
            mask = args[1][0]
            return args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return func(*args, **(kwargs or {}))


class _AnyAssignment:
    """In the matcher's place: the i-th object of every group gets the i-th query, and the costs take their memory."""

    def __init__(self, matcher):
        self._matcher = matcher

    def __getattr__(self, name: str):
        return getattr(self._matcher, name)

    def __call__(self, problems: Sequence) -> list[Tensor]:
        held, found = [], []
        for problem in problems:
            _, groups, queries, _ = problem.prediction.logits.shape
            counts = problem.targets.counts
            held.append(torch.empty(groups * sum(counts) * queries))
            found.append(torch.cat([torch.arange(n) for n in counts]).expand(groups, -1))
        return found
