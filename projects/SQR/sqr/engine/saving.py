"""Runs the training loop so that neither a signal nor an error loses completed work."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from torch import nn

from ..checkpoint.checkpointer import Checkpointer, CheckpointError
from ..distributed import machine_failure
from ..errors import NonFiniteError, TrainingInterrupted, UserError, one_line
from .run_folder import FolderTakenError
from .trainer import Trainer, TrainingStopped

logger = logging.getLogger(__name__)


def run_and_save(trainer: Trainer, checkpointer: Checkpointer, max_iter: int) -> None:
    """Train from ``trainer.completed + 1`` to ``max_iter``; save if a checkpoint hook did not.

    Raises:
        TrainingInterrupted: stopped by a signal; a checkpoint was saved.
        UserError: an error that the user can fix; the completed iterations are saved if possible.
    """
    try:
        trainer.train(trainer.completed + 1, max_iter)
    except TrainingStopped as stop:
        raise _interrupted(stop, trainer, checkpointer) from None
    except NonFiniteError as error:
        if comm.is_main_process():
            error.args = (f"{one_line(error)}. {_after_divergence(trainer, checkpointer)}",)
        raise
    except (CheckpointError, FolderTakenError):
        raise
    except UserError as error:
        error.args = (f"{one_line(error)}{_rescue(trainer, checkpointer)}",)
        raise
    except Exception as error:
        saved = _rescue(trainer, checkpointer)
        known = error if isinstance(error, OSError) else machine_failure(error)
        if known is None:
            raise
        kind = UserError if known is error else type(known)
        raise kind(f"iteration {trainer.iter}: {one_line(known)}{saved}") from error
    if trainer.stop_early:
        checkpointer.save("model_final", iteration=trainer.completed)


def _interrupted(stop: TrainingStopped, trainer: Trainer, checkpointer: Checkpointer) -> TrainingInterrupted:
    done = trainer.completed + 1
    if done < trainer.max_iter:
        if checkpointer.saved_iteration != trainer.completed:
            _save(trainer, checkpointer)
        try:
            comm.synchronize()  # no process leaves before the checkpoint is written
        except RuntimeError as error:
            if (lost := machine_failure(error)) is None:
                raise
            raise type(lost)(f"{one_line(lost)}{_resume_from(checkpointer)}") from error
        text = f"{stop} after {done} of {trainer.max_iter} iterations; saved. "
        text += "Resume with the same command and --resume"
    else:
        text = f"{stop} during the last evaluation; training is complete. The same command with --resume evaluates"
    return TrainingInterrupted(text, stop.signal_number)


def _rescue(trainer: Trainer, checkpointer: Checkpointer) -> str:
    """Save the work since the last checkpoint after an error; return a message about it."""
    done = trainer.completed + 1
    again = f". The {done} iterations done are saved: resume with --resume"
    if done == trainer.start_iter or not comm.is_main_process():
        return ""
    if checkpointer.saved_iteration == trainer.completed:
        return again if done < trainer.max_iter else ""
    if trainer.mid_update or (trainer.mid_step and _has_running_statistics(trainer.model)):
        return _resume_from(checkpointer)
    try:
        with _undisturbed():
            _save(trainer, checkpointer)
    except Exception as error:  # must not hide the original error
        logger.warning("The iterations since the last checkpoint could not be saved: %s", one_line(error))
        return _resume_from(checkpointer)
    return again


def _resume_from(checkpointer: Checkpointer) -> str:
    last = checkpointer.last_name()
    return f". {last} is the last checkpoint: resume with --resume" if last else ""


def _after_divergence(trainer: Trainer, checkpointer: Checkpointer) -> str:
    """Keep the last weights that gave a finite loss, and say what to change, since the run would diverge again."""
    rate = max(group.get("initial_lr", group["lr"]) for group in trainer.optimizer.param_groups)
    last = checkpointer.withdraw(trainer.completed)
    change = f"a lower optimizer.lr (the highest rate is {rate:.3g}) or a smaller train.clip_grad.max_norm"
    if last is None:
        return f"No checkpoint was saved; start again with {change}"
    return f"The last good checkpoint is {last}: resume from it with --resume and {change}"


def _save(trainer: Trainer, checkpointer: Checkpointer) -> None:
    checkpointer.save(f"model_{trainer.completed:07d}", iteration=trainer.completed)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore SIGTERM inside this context: a launcher sends it to all processes as soon as one has failed."""
    try:
        old = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:  # not the main thread: the embedding program handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _has_running_statistics(model: nn.Module) -> bool:
    """Whether a forward pass changes the model, so that an unfinished iteration cannot be taken back."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats for m in model.modules())
