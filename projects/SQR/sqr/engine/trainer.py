"""The training loop: Detectron2's ``SimpleTrainer`` with clipping, autocast, exact resume and clean stops."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from .errors import UserError, one_line
from .rng import seed_step
from .train_loader import TrainLoader

logger = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """Raised in the loop, between two iterations, once a stop signal came in."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Trainer(SimpleTrainer):
    """Train a model that returns a dict of weighted scalar losses.

    Each iteration moves one vector to the host: all losses, the gradient norm and the stop flag, after the
    backward pass was queued and before the weights change, so that a non-finite loss never reaches the
    weights.

    Args:
        model: in training mode, on its device; possibly wrapped for several processes.
        data_loader: from :func:`sqr.engine.build_train_loader`.
        optimizer: stepped once an iteration.
        seed: of the samples' and the steps' random numbers.
        max_grad_norm: clip the gradients' global norm to this; None for no clipping.
        norm_type: of the global norm.
        amp_dtype: run the forward pass under autocast with this dtype; None for full precision.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        max_grad_norm: float | None = None,
        norm_type: float = 2.0,
        amp_dtype: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.samples_seen = 0
        self.max_grad_norm = math.inf if not max_grad_norm else float(max_grad_norm)
        self.norm_type = norm_type
        self.amp_dtype = amp_dtype
        self.device_type = next(model.parameters()).device.type
        scaled = amp_dtype is torch.float16
        if scaled and self.device_type != "cuda":
            raise UserError("train.amp.dtype=float16 needs a GPU; use train.amp.dtype=bfloat16 on CPU")
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._stop_signal: int | None = None
        self._interruptible = False

    # ------------------------------------------------------------------ loop

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``.

        Raises:
            TrainingStopped: SIGINT or SIGTERM came in; ``self.iter`` is the last finished iteration.
        """
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.data_loader.start_at(self.samples_seen, seed=self.seed)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage, self._stop_on_signals():
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self._stop_signal is not None and self.iter + 1 < max_iter:
                        raise TrainingStopped(self._stop_signal)
                self.iter += 1
            finally:
                self.after_train()
                self._close_loader()

    def _close_loader(self) -> None:
        """End the loader's worker processes now, not when the last reference to them goes."""
        if self._data_loader_iter_obj is not None:
            self._data_loader_iter_obj.close()
            self._data_loader_iter_obj = None

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("the model was switched to evaluation mode during training")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        seed_step(self.seed, self.iter, comm.get_rank())

        losses = self._forward(data)
        names, values = list(losses), torch.stack([value.float() for value in losses.values()])
        self.optimizer.zero_grad()
        self.grad_scaler.scale(values.sum()).backward()
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm, self.norm_type)

        self._record(names, values.detach(), grad_norm.detach(), data, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.samples_seen += self.data_loader.total_batch_size

    def _forward(self, data: list[dict]) -> dict[str, Tensor]:
        autocast = torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_dtype is not None)
        try:
            with autocast:
                losses = self.model(data)
        except (FloatingPointError, ValueError) as error:  # the model's checks of its numbers and its input
            raise UserError(f"iteration {self.iter}, image ids {_image_ids(data)}: {one_line(error)}") from error
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    # ------------------------------------------------------------------ numbers

    def _record(self, names: list[str], values: Tensor, grad_norm: Tensor, data: list[dict], data_time: float) -> None:
        """Check and store the losses, averaged over processes; agree on whether to stop."""
        own = values.sum()
        stop = values.new_tensor(float(self._stop_signal or 0))
        vector = torch.cat([values, grad_norm.float()[None]])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(vector)
            vector = vector / comm.get_world_size()
            torch.distributed.all_reduce(stop, op=torch.distributed.ReduceOp.MAX)
        own_total, stop_signal, *numbers = torch.cat([own[None], stop[None], vector]).tolist()
        self._stop_signal = int(stop_signal) or self._stop_signal
        metrics = dict(zip([*names, "grad_norm"], numbers, strict=True))
        self._check_finite(own_total, metrics, data)
        if comm.is_main_process():
            grad_norm_value = metrics.pop("grad_norm")
            self.storage.put_scalars(data_time=data_time, grad_norm=grad_norm_value)
            self.storage.put_scalar("total_loss", sum(metrics.values()))
            if names != ["total_loss"]:
                self.storage.put_scalars(**metrics)

    def _check_finite(self, own_total: float, metrics: dict[str, float], data: list[dict]) -> None:
        if math.isfinite(sum(v for k, v in metrics.items() if k != "grad_norm")):
            # Half precision: the scaler skips the step and lowers its scale when gradients overflow.
            if math.isfinite(metrics["grad_norm"]) or self.grad_scaler.is_enabled():
                return
            what = "the gradients are not finite though every loss is"
        else:
            bad = [f"{k}={v}" for k, v in metrics.items() if k != "grad_norm" and not math.isfinite(v)]
            what = f"the loss is not finite ({', '.join(bad[:6])}{', ...' if len(bad) > 6 else ''})"
            if math.isfinite(own_total):
                what += ", on another process than this one"
        raise UserError(
            f"iteration {self.iter}: {what}; image ids {_image_ids(data)}. It did not reach the weights. "
            "Lower optimizer.lr, or look at these images' annotations"
        )

    # ------------------------------------------------------------------ stopping

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this context a stop signal is obeyed at once: for an evaluation between two iterations."""
        if self._stop_signal is not None and comm.get_world_size() == 1:
            raise TrainingStopped(self._stop_signal)
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        def request_stop(number: int, frame: object) -> None:
            if self._interruptible:
                raise TrainingStopped(number)
            if number == signal.SIGINT and self._stop_signal == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop_signal = number
            logger.warning(
                "%s: finishing this iteration, then saving. Once more Ctrl-C stops at once, without saving.",
                signal.Signals(number).name,
            )

        try:
            old = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the embedding program handles signals
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict:
        state = super().state_dict()
        state.update(seed=self.seed, samples_seen=self.samples_seen)
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict["seed"] != self.seed:
            logger.warning(
                "Going on with seed %d of the checkpoint, not %d: the run stays the one that was started.",
                state_dict["seed"], self.seed,
            )  # fmt: skip
        self.seed, self.samples_seen = state_dict["seed"], state_dict["samples_seen"]
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _image_ids(data: list[dict]) -> str:
    return ", ".join(str(d.get("image_id", d.get("file_name", "?"))) for d in data)
