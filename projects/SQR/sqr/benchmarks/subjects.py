"""What benchmarks measure: a model with random weights, random images and objects, a training step in parts."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config import default_device, editable, load_run_config
from ..engine import build_optimizer
from ..errors import UserError, as_user_error
from ..targets import Targets
from .timing import Laps

_SPREAD = 0.02  # standard deviation that replaces matrices that start at zero


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`load_subject_config` and :func:`random_batch` read."""
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--objects", type=int, default=20, help="objects an image")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU; one is measured in CPU time")
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


def add_overrides_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", help="key=value, as for train_net.py")


def load_subject_config(args: argparse.Namespace) -> DictConfig:
    """The config with its overrides, on ``args.device`` and with a number of classes; no data is read.

    If the number of classes depends on data that is not given, COCO's is used.

    Raises:
        UserError: no such config, a bad override, a device that does not exist.
    """
    return editable(load_run_config(args.config_file, args.overrides, needs_data=False, device=args.device))


def random_batch(size: tuple[int, int], *, images: int, objects: int, num_classes: int, seed: int = 0) -> list[dict]:
    """Detectron2 training inputs of one size ``(height, width)``: noise, with ``objects`` boxes per image."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    batch = []
    for image_id in range(images):
        low = torch.rand(objects, 2, generator=generator) * 0.7
        high = low + 0.02 + torch.rand(objects, 2, generator=generator) * 0.28
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat((low, high), dim=1) * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.randint(num_classes, (objects,), generator=generator)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "image_id": image_id, "height": height, "width": width})
    return batch


@dataclass
class Subject:
    """A model in training mode and what else a training step needs.

    Attributes:
        optimizer: the config's with all learning rates at zero: it does all its work without changing the weights.
        amp_dtype: of the forward pass, None for full precision.
        grad_scaler: scales the loss in float16, as in the trainer; otherwise disabled.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    max_norm: float
    norm_type: float
    amp_dtype: torch.dtype | None
    grad_scaler: torch.amp.GradScaler
    device: str

    @staticmethod
    def from_config(cfg: DictConfig, *, seed: int = 0) -> Subject:
        """Random weights; see :func:`fill_zero_matrices`.

        Raises:
            UserError: the model cannot be built, or float16 is asked for where the trainer refuses it.
        """
        clip, amp = cfg.train.clip_grad, cfg.train.amp
        amp_dtype, kind = getattr(torch, amp.dtype) if amp.enabled else None, torch.device(cfg.train.device).type
        if amp_dtype is torch.float16 and kind != "cuda":
            raise UserError("train.amp.dtype=float16 needs a GPU; use train.amp.dtype=bfloat16 on CPU")
        torch.manual_seed(seed)
        with as_user_error(ValueError, prefix="model: "):
            model = instantiate(cfg.model)
        fill_zero_matrices(model)
        model.to(cfg.train.device).train()
        return Subject(
            model=model,
            optimizer=make_optimizer(cfg, model),
            max_norm=float("inf") if not clip.max_norm else float(clip.max_norm),
            norm_type=float(clip.norm_type),
            amp_dtype=amp_dtype,
            grad_scaler=torch.amp.GradScaler(kind, enabled=amp_dtype is torch.float16),
            device=cfg.train.device,
        )

    @contextlib.contextmanager
    def precision(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Inside this context the forward pass runs under autocast with bfloat16; None follows the config."""
        before = self.amp_dtype
        try:
            self.amp_dtype = dtype or before
            yield
        finally:
            self.amp_dtype = before

    def autocast(self) -> torch.autocast:
        kind = torch.device(self.device).type
        return torch.autocast(kind, self.amp_dtype, enabled=self.amp_dtype is not None)

    def step(self, batch: list[dict], laps: Laps | None = None, *, keep_gradients: bool = False) -> dict[str, Tensor]:
        """One training step as the trainer does it; tells ``laps`` of forward, loss, backward and optimizer.

        ``keep_gradients`` adds to existing gradients, as in the last part of a batch that is processed in parts.

        Returns:
            The losses.
        """
        laps = laps or Laps(self.device)
        hooks = [
            self.model.criterion.register_forward_pre_hook(lambda *_: laps("forward")),
            self.model.criterion.register_forward_hook(lambda *_: laps("loss")),
        ]
        if not keep_gradients:  # as in the trainer: no old gradients in memory during the forward pass
            self.optimizer.zero_grad()
        try:
            with self.autocast():
                losses = self.model(batch)
        finally:
            for hook in hooks:
                hook.remove()
        self._backward(losses, laps)
        self._optimise(laps)
        return losses

    def decoder_step(self, memory: object, targets: Targets, laps: Laps | None = None) -> dict[str, Tensor]:
        """The part after the encoder: initial queries, decoder, loss, and the backward pass to the memory.

        Returns:
            The losses.
        """
        laps = laps or Laps(self.device)
        memory.tokens.grad = None
        self.optimizer.zero_grad()
        with self.autocast():
            decoded = self.model.decode(memory, targets)
            laps("forward")
            losses = self.model.losses(decoded, targets)
            laps("loss")
        self._backward(losses, laps)
        return losses

    def _backward(self, losses: dict[str, Tensor], laps: Laps) -> None:
        total = torch.stack([value.float() for value in losses.values()]).sum()
        laps("loss")
        self.grad_scaler.scale(total).backward()
        laps("backward")

    def _optimise(self, laps: Laps) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.grad_scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(parameters, self.max_norm, self.norm_type)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        laps("optimizer")

    @torch.no_grad()
    def encode(self, batch: list[dict]) -> tuple[object, Targets]:
        """The batch's memory as a leaf that requires gradients, and its objects."""
        with self.autocast():
            memory = self.model.encode(batch)
        targets = Targets.from_batched_inputs(batch, num_classes=self.model.num_classes, device=self.model.device)
        return as_leaf(memory), targets


def as_leaf(memory: object) -> object:
    """A memory whose tokens are detached and require gradients."""
    return replace(memory, tokens=memory.tokens.detach().requires_grad_())


def repeat_memory(memory: object, times: int) -> object:
    """A memory with every tensor repeated ``times`` times along its batch axis."""
    batch = len(memory.tokens)
    repeated = {}
    for field in fields(memory):
        value = getattr(memory, field.name)
        if isinstance(value, Tensor) and len(value) == batch:
            repeated[field.name] = value.repeat(times, *[1] * (value.dim() - 1))
    return replace(memory, **repeated)


@torch.no_grad()
def fill_zero_matrices(model: nn.Module) -> None:
    """Replace matrices that start at zero by small noise, so that boxes and points differ as after some training."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=_SPREAD)


def make_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer for a model, all rates at zero."""
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Disable dropout inside this context, so that two executions of a model are comparable."""
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    before = [(m, "p", m.p) for m in dropouts] + [(m, "dropout", m.dropout) for m in attentions]
    try:
        for module, name, _ in before:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
