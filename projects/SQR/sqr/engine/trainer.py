"""The training loop: ``SimpleTrainer`` with clipping, autocast, accumulation, exact resume and clean stops."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from detectron2.engine import SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..decoder import RecollectingDecoder
from ..distributed import unwrap
from ..errors import NonFiniteElsewhereError, NonFiniteError, UsageError, UserError, one_line
from ..structures import BatchTotals
from .optimizer_state import names_of_groups, restore
from .rng import plan_draw, seed_step
from .train_loader import TrainLoader

logger = logging.getLogger(__name__)

# Ctrl-C, the end of a job, and the warning that a scheduler sends before the end (Slurm: --signal=USR1@180).
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(Exception):
    """Raised in the loop, between two iterations, after a stop signal was received."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Trainer(SimpleTrainer):
    """Train a model that returns a dict of weighted scalar losses.

    Each iteration copies one vector to the host (all losses, the gradient norm and the stop flag) after
    queueing the backward pass and before changing the weights, so that a non-finite loss never reaches the
    weights.

    Args:
        model: in training mode, on its device; possibly wrapped for several processes.
        data_loader: from :func:`sqr.engine.build_train_loader`.
        optimizer: stepped once per iteration.
        seed: of the random numbers of samples and steps.
        max_grad_norm: clip the gradients' global norm to this; None for no clipping.
        norm_type: of the global norm.
        amp_dtype: run the forward pass under autocast with this dtype; None for full precision.
        accumulation_steps: process a batch in this many parts of equal size, one after the other, and step the
            optimizer once. With each part the model gets ``batch_totals``, the objects and images of all parts, so
            that the losses of the parts add up to those of the whole batch.

    Attributes:
        completed: the last completed iteration; -1 before the first.
        mid_step: a forward pass of an unfinished iteration has begun, so that running statistics (BatchNorm) are not
            those of ``completed``.
        mid_update: an optimizer step or an average is in progress, or was interrupted by an error: weights and moments
            are inconsistent and must not be saved.
        stop_early: set by a hook to end the training after this iteration.
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
        accumulation_steps: int = 1,
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
        share = data_loader.total_batch_size // comm.get_world_size()
        if accumulation_steps < 1 or share % accumulation_steps:
            raise UsageError(
                f"train.accumulation_steps={accumulation_steps} must divide the batch of a process, {share} "
                f"(dataloader.train.total_batch_size={data_loader.total_batch_size}, {comm.get_world_size()} processes)"
            )
        self.accumulation_steps = accumulation_steps
        self.completed = -1
        self.mid_step = self.mid_update = self.stop_early = False
        self._decoders = [module for module in model.modules() if isinstance(module, RecollectingDecoder)]
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._stop_signal: int | None = None  # that came in here
        self._stop_agreed: int | None = None  # that all processes know of; the same in each
        self._interruptible = False

    # ------------------------------------------------------------------ loop

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``.

        Raises:
            TrainingStopped: SIGINT, SIGTERM or SIGUSR1 was received; ``self.iter`` is the last finished iteration.
        """
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.data_loader.start_at(self.samples_seen, seed=self.seed)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.completed = start_iter - 1
        with EventStorage(start_iter) as self.storage, self._stop_on_signals():
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.stop_early:
                        break
                    stop = self._stop_agreed if comm.get_world_size() > 1 else self._stop_signal
                    if stop is not None and self.iter + 1 < max_iter:
                        raise TrainingStopped(stop)
                else:
                    self.iter += 1
            except BaseException:
                self._end_hooks()
                raise
            else:
                self.after_train()
            finally:
                self._close_loader()

    def after_train(self) -> None:
        self.storage.iter = max(self.completed, 0)  # final results belong to the last iteration
        for hook in self._hooks:
            hook.after_train()

    def _end_hooks(self) -> None:
        """End every hook after an error; further failures must not hide it."""
        self.storage.iter = max(self.completed, 0)
        for hook in self._hooks:
            try:
                hook.after_train()
            except Exception as error:
                logger.warning("%s, at the end: %s", type(hook).__name__, one_line(error))

    def _close_loader(self) -> None:
        """End the loader's worker processes now instead of with the last reference to them."""
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
        for decoder in self._decoders:
            decoder.draw_number = plan_draw(self.seed, self.iter)

        self.mid_step = True
        self.optimizer.zero_grad()
        losses = self._forward_and_backward(data)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm, self.norm_type)

        self._record(losses, grad_norm.detach(), data, data_time)
        with self.updating():
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
            self.samples_seen += self.data_loader.total_batch_size
            self.completed, self.mid_step = self.iter, False

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Inside this context weights or averages change; ``mid_update`` stays set if an error ends it."""
        self.mid_update = True
        yield
        self.mid_update = False

    def _forward_and_backward(self, data: list[dict]) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts; return the sums of the parts' losses, detached."""
        sums: dict[str, Tensor] = {}
        parts, totals = self._parts(data)
        for number, part in enumerate(parts, start=1):
            with self._local_gradients() if number < len(parts) else nullcontext():
                losses = self._forward(part, totals)
                values = torch.stack([value.float() for value in losses.values()])
                self.grad_scaler.scale(values.sum()).backward()
            for name, value in zip(losses, values.detach(), strict=True):
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _parts(self, data: list[dict]) -> tuple[list[list[dict]], BatchTotals | None]:
        """The parts of a batch, and its totals if there are several."""
        if self.accumulation_steps == 1:
            return [data], None
        size = len(data) // self.accumulation_steps
        objects = sum(len(inputs["instances"]) for inputs in data if "instances" in inputs)
        parts = [data[first : first + size] for first in range(0, len(data), size)]
        return parts, BatchTotals(objects, len(data))

    def _local_gradients(self) -> AbstractContextManager:
        """Context in which gradients are not synchronized, for all but the last part of a batch."""
        return self.model.no_sync() if comm.get_world_size() > 1 else nullcontext()

    def _forward(self, data: list[dict], totals: BatchTotals | None) -> dict[str, Tensor]:
        autocast = torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_dtype is not None)
        try:
            with autocast:
                losses = self.model(data) if totals is None else self.model(data, batch_totals=totals)
        except UserError as error:  # the model's checks of its numbers and its input
            kind = NonFiniteError if isinstance(error, NonFiniteError) else UserError
            raise kind(f"iteration {self.iter}, image ids {_image_ids(data)}: {one_line(error)}") from error
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    # ------------------------------------------------------------------ numbers

    def _record(self, losses: dict[str, Tensor], grad_norm: Tensor, data: list[dict], data_time: float) -> None:
        """Check and store the losses, averaged over processes; agree on whether to stop."""
        names, values = list(losses), torch.stack(list(losses.values()))
        own = values.sum()
        stop = values.new_tensor(float(self._stop_signal or 0))
        vector = torch.cat([values, grad_norm.float()[None]])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(vector)
            vector = vector / comm.get_world_size()
            torch.distributed.all_reduce(stop, op=torch.distributed.ReduceOp.MAX)
        own_total, stop_signal, *numbers = torch.cat([own[None], stop[None], vector]).tolist()
        self._stop_agreed = int(stop_signal) or None
        metrics = dict(zip([*names, "grad_norm"], numbers, strict=True))
        self._check_finite(own_total, metrics, data)
        if comm.is_main_process():
            grad_norm_value = metrics.pop("grad_norm")
            self.storage.put_scalars(data_time=data_time, grad_norm=grad_norm_value)
            self.storage.put_scalar("total_loss", sum(metrics.values()))
            if names != ["total_loss"]:
                self.storage.put_scalars(**metrics)

    def _check_finite(self, own_total: float, metrics: dict[str, float], data: list[dict]) -> None:
        kind = NonFiniteError
        if math.isfinite(sum(v for k, v in metrics.items() if k != "grad_norm")):
            # In half precision the scaler skips the step and lowers its scale if gradients overflow.
            if math.isfinite(metrics["grad_norm"]) or self.grad_scaler.is_enabled():
                return
            what = "the gradients are not finite though every loss is"
        else:
            bad = [f"{k}={v}" for k, v in metrics.items() if k != "grad_norm" and not math.isfinite(v)]
            what = f"the loss is not finite ({', '.join(bad[:6])}{', ...' if len(bad) > 6 else ''})"
            if math.isfinite(own_total):
                kind, what = NonFiniteElsewhereError, f"{what}, on another process than this one"
        raise kind(
            f"iteration {self.iter}: {what}; image ids {_image_ids(data)}. It did not reach the weights. "
            "Lower optimizer.lr, or look at these images' annotations"
        )

    # ------------------------------------------------------------------ stopping

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside this context a stop signal takes effect immediately: for an evaluation between two iterations."""
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
            old = {number: signal.signal(number, request_stop) for number in STOP_SIGNALS}
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
        state.update(iteration=self.completed, seed=self.seed, samples_seen=self.samples_seen)
        state["parameter_names"] = names_of_groups(self.optimizer, unwrap(self.model))
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        restore(self.optimizer, state_dict["optimizer"], state_dict.get("parameter_names"), unwrap(self.model))
        if state_dict["seed"] != self.seed:
            logger.warning(
                "Resuming with seed %d of the checkpoint, not %d: the run stays the one that was started.",
                state_dict["seed"], self.seed,
            )  # fmt: skip
        self.seed, self.samples_seen = state_dict["seed"], state_dict["samples_seen"]
        self.completed = self.iter
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _image_ids(data: list[dict]) -> str:
    return ", ".join(str(d.get("image_id", d.get("file_name", "?"))) for d in data)
