"""The peak memory of a training step, predicted without data.

The step is gone through on tensors that have sizes and no data, and the bytes of live tensors are counted after each
operation: parameters and optimizer state, everything saved for the backward pass, gradients as they come, and what
lives for a moment. Only the assignment of queries to objects, which needs numbers, is replaced by an arbitrary one.

For a CPU these are PyTorch's fake tensors of that device. For a GPU they are meta tensors, with which the model takes
the branches that it takes there, under :class:`~.gpu_rules.GpuRules`: no GPU is needed.

Not counted: workspaces inside operators, the allocator's fragments, the CUDA context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..recollection import Plan
from ..targets import Targets
from .executions import running
from .gpu_rules import GpuRules
from .live_memory import LiveMemory

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Prediction:
    """Bytes of a training step of a number of images.

    Attributes:
        parameters: parameters and buffers.
        gradients: of all trainable parameters; they come while what the forward pass saved goes.
        optimizer: its state.
        average: the copy of the weights that ``train.ema`` keeps.
        buckets: in which several processes exchange gradients.
        peak: the highest moment of a step, all of that included.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    buckets: int
    peak: int

    @property
    def of_step(self) -> int:
        """The peak of the model and its step alone, without average and buckets."""
        return self.peak - self.average - self.buckets


class Rehearsal:
    """A config's model without data, whose training steps are gone through to count their memory.

    Args:
        cfg: of :func:`~sqr.benchmarks.subjects.load_subject_config`.
        device: the device to predict for, "cpu" or "cuda".
        processes: that train together.

    Attributes:
        many: further images at once that show what each adds; few for a CPU, where attention with dropout is gone
            through piece by piece.

    Raises:
        ValueError: the model cannot be built.
    """

    def __init__(self, cfg: DictConfig, *, device: str = "cuda", processes: int = 1):
        self._device = "cpu" if device == "cpu" else "meta"
        self.many = 4 if device == "cpu" else 32
        self._fake = FakeTensorMode(allow_non_fake_inputs=True) if device == "cpu" else None
        self._rules = GpuRules() if device != "cpu" else None
        self._optimizer_ratio = optimizer_state_ratio(cfg)
        self._averages = bool((cfg.train.get("ema") or {}).get("enabled"))
        self._processes = processes
        self._found: dict[tuple, Prediction] = {}
        self.amp_dtype = getattr(torch, cfg.train.amp.dtype)
        with self._without_data(), torch.device(self._device):
            self.model = instantiate(cfg.model).train()
        self.model.criterion.matcher = _AnyAssignment(self.model.criterion.matcher)

    def step(
        self,
        *,
        size: tuple[int, int],
        images: int,
        objects: int,
        plan: str | Mapping | Sequence,
        execution: str | None = "folded",
        amp: bool = False,
        accumulating: bool = False,
    ) -> Prediction:
        """Predict the peak of a step after others: the optimizer's state is there.

        Args:
            size: ``(height, width)`` of the padded batch.
            images: at once, on one device.
            objects: of each image.
            plan: whatever :meth:`~sqr.recollection.Plan.from_spec` takes.
            execution: one of ``EXECUTIONS``; None runs the options of the config.
            amp: under autocast, to the config's dtype.
            accumulating: a further part of a batch, with the gradients of the parts before it.

        Raises:
            ValueError: the model cannot be run on this size.
        """
        plan = Plan.from_spec(plan, len(self.model.decoder.stages))
        asked = (plan, execution, amp, accumulating, tuple(size), images, objects)
        if asked not in self._found:  # a recommendation tries what a table has said
            self._found[asked] = self._step(*asked)
        return self._found[asked]

    def _step(
        self,
        plan: Plan,
        execution: str | None,
        amp: bool,
        accumulating: bool,
        size: tuple[int, int],
        images: int,
        objects: int,
    ) -> Prediction:
        model, memory = self.model, LiveMemory()
        parameters = [p for p in model.parameters() if p.requires_grad]
        memory.add([*model.parameters(), *model.buffers()])
        held, gradients = memory.live, sum(p.nbytes for p in parameters)
        targets = Targets.from_lists(
            [torch.zeros(objects, dtype=torch.int64)] * images,
            [torch.full((objects, 4), 0.5)] * images,
            device=self._device,
        )
        dtype = self.amp_dtype if amp else None
        try:
            with running(model, plan, execution), self._without_data(), memory:
                if accumulating:
                    for parameter in parameters:
                        parameter.grad = torch.empty_like(parameter)
                self._run(targets, (images, *size), dtype)
        finally:
            model.zero_grad()
        optimizer = int(self._optimizer_ratio * gradients)
        average = held if self._averages else 0
        buckets = gradients if self._processes > 1 else 0
        return Prediction(held, gradients, optimizer, average, buckets, memory.peak + optimizer + average + buckets)

    def _run(self, targets: Targets, shape: tuple[int, int, int], dtype: torch.dtype | None) -> None:
        images, height, width = shape
        model, device = self.model, self._device
        with self._autocast(dtype):
            mask = torch.zeros(images, height, width, dtype=torch.bool, device=device)
            memory = model.encode_images(torch.empty(images, 3, height, width, device=device), mask)
            decoded = model.decode(memory, targets)
        losses = model.losses(decoded, targets)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        del losses
        with self._rules_in_stages(dtype):
            total.backward()

    @contextmanager
    def _without_data(self) -> Iterator[None]:
        with ExitStack() as stack:
            for mode in (self._fake, _AnyNumbers(), self._rules):
                if mode is not None:
                    stack.enter_context(mode)
            yield

    def _autocast(self, dtype: torch.dtype | None) -> AbstractContextManager:
        if self._rules is not None:
            return self._rules.autocast(dtype)
        return torch.autocast("cpu", dtype, enabled=dtype is not None)

    @contextmanager
    def _rules_in_stages(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Bring the rules back where checkpointing runs stages once more: a backward pass is outside of them."""
        if self._rules is None:  # PyTorch's own autocast comes back by itself
            yield
            return

        def under_rules(forward: Callable) -> Callable:
            def call(*args: object) -> object:
                with self._rules, self._rules.autocast(dtype):
                    return forward(*args)

            return call

        stages = set(self.model.decoder.stages)
        for stage in stages:
            stage.forward = under_rules(stage.forward)
        try:
            yield
        finally:
            for stage in stages:
                del stage.forward


def predict(
    cfg: DictConfig, *, size: tuple[int, int], images: int, objects: int, device: str = "cuda", processes: int = 1
) -> Prediction:
    """Predict the peak of the config's own plan and settings; see :class:`Rehearsal`."""
    rehearsal = Rehearsal(cfg, device=device, processes=processes)
    return rehearsal.step(
        size=size,
        images=images,
        objects=objects,
        plan=rehearsal.model.decoder.plan,
        execution=None,
        amp=cfg.train.amp.enabled,
        accumulating=cfg.train.get("accumulation_steps", 1) > 1,
    )


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
    """Answers questions about numbers where there are none: a mask selects everything, a scalar is 1."""

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
            logits, counts = problem.prediction.logits, problem.targets.counts
            _, groups, queries, _ = logits.shape
            held.append(logits.new_empty(groups * sum(counts) * queries))
            found.append(torch.cat([torch.arange(n, device=logits.device) for n in counts]).expand(groups, -1))
        return found
