"""Hooks based on evaluations during training: history, best checkpoint, early stopping."""

from __future__ import annotations

import difflib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from ..checkpoint.checkpointer import BestCheckpointer
from ..files import append_row, write_atomically

logger = logging.getLogger(__name__)


class EvaluationHistory:
    """All evaluations of a run, kept as ``OUTPUT/evaluations.json``: a list of flat results with ``iteration``.

    Best checkpoint and early stopping depend only on it, so that a resumed run decides like an uninterrupted one. It is
    empty on all but the main process.

    Args:
        output_dir: of the run.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / "evaluations.json"
        self._entries: list[dict] = []

    def load(self, start_iter: int) -> None:
        """Read the evaluations before ``start_iter``; later ones belong to iterations that are repeated."""
        self._entries = []
        if not comm.is_main_process() or not self.path.exists() or start_iter == 0:
            return
        try:
            entries = json.loads(self.path.read_bytes())
            self._entries = [_checked_entry(entry) for entry in entries if entry["iteration"] < start_iter]
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.warning(
                "%s is not readable: the evaluations before iteration %d are forgotten", self.path, start_iter
            )

    def add(self, iteration: int, results: dict) -> None:
        """Append the results of an evaluation after ``iteration`` and write the file."""
        if not comm.is_main_process():
            return
        flat = {key: float(value) for key, value in flatten_results_dict(results).items()}
        flat = {key: value if math.isfinite(value) else None for key, value in flat.items()}
        self._entries = [entry for entry in self._entries if entry["iteration"] != iteration]
        self._entries.append({"iteration": iteration, **flat})
        text = json.dumps(self._entries, indent=1)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        append_row(self.path.with_name("metrics.json"), self._entries[-1])

    @property
    def entries(self) -> tuple[dict, ...]:
        return tuple(self._entries)

    def names(self) -> set[str]:
        """Of the metrics that the evaluations gave."""
        return {name for entry in self._entries for name in entry} - {"iteration"}

    def has(self, iteration: int) -> bool:
        return any(entry["iteration"] == iteration for entry in self._entries)

    def values(self, metric: str) -> list[tuple[int, float]]:
        """Iteration and finite value of each evaluation that gave this metric."""
        return [(e["iteration"], e[metric]) for e in self._entries if e.get(metric) is not None]

    def missing(self, metric: str) -> str:
        """Why the last evaluation has no such metric; empty if it has, or if there was no evaluation."""
        if not self._entries or metric in self._entries[-1]:
            return ""
        names = [key for key in self._entries[-1] if key != "iteration"]
        near = difflib.get_close_matches(metric, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it gave {', '.join(names[:8]) or 'nothing'}"
        return f"the evaluation gave no {metric}; {hint}"

    def since_best(self, metric: str, mode: str, min_delta: float = 0.0) -> tuple[int, float | None, int]:
        """Evaluations since the best one, its value and its iteration (None and -1 if there is none).

        Args:
            metric: flat name.
            mode: "max" or "min".
            min_delta: by how much a value must be better to count as such.
        """
        sign = 1.0 if mode == "max" else -1.0
        best, best_iter, since = None, -1, 0
        for iteration, value in self.values(metric):
            if best is None or sign * (value - best) > min_delta:
                best, best_iter, since = value, iteration, 0
            else:
                since += 1
        return since, best, best_iter


class EvaluationHook(hooks.EvalHook):
    """Detectron2's ``EvalHook`` with a history.

    If a run was killed between a checkpoint and the following evaluation, that evaluation is run on resuming.

    Args:
        eval_period: iterations between evaluations; 0 evaluates only at the end.
        eval_function: returns a nested dict of metrics; called in all processes.
        history: receives the results.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict], history: EvaluationHistory):
        super().__init__(eval_period, self._evaluate)
        self._eval_function = eval_function
        self._history = history

    def _evaluate(self) -> dict:
        results = self._eval_function()
        if results:
            self._history.add(self.trainer.completed, results)
        return results

    def make_up(self) -> None:
        """Evaluate a completed training whose last evaluation was interrupted."""
        if _agreed(not self._history.has(self.trainer.completed)):
            logger.info("Evaluating after iteration %d, which the run before did not finish", self.trainer.completed)
            with EventStorage(self.trainer.completed) as self.trainer.storage:
                self._evaluate()

    def before_train(self) -> None:
        last = self.trainer.completed
        if _agreed(is_due(self._period, last + 1) and not self._history.has(last)):
            logger.info("Evaluating after iteration %d, which the run before did not finish", last)
            self.trainer.storage.iter = last
            self._do_eval()
            self.trainer.storage.iter = last + 1

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after an error in the last iteration
            self._do_eval()
        del self._func, self._eval_function


class BestCheckpoint(HookBase):
    """Keeps the weights of the best evaluation as ``model_best.pth``.

    Detectron2's hook of this kind forgets the best value when a run is resumed. To be registered after
    :class:`EvaluationHook`, on the main process.

    Args:
        eval_period: of the evaluations.
        checkpointer: writes the file.
        metric: flat name, ``bbox/AP`` or ``ema/bbox/AP50``.
        mode: whether "max" or "min" is best.
        history: of the evaluations.
    """

    NAME = "model_best"

    def __init__(
        self,
        eval_period: int,
        checkpointer: BestCheckpointer,
        *,
        metric: str,
        mode: str = "max",
        history: EvaluationHistory,
    ):
        self._period, self.checkpointer, self._history = eval_period, checkpointer, history
        self._metric, self._mode = metric, mode

    def before_train(self) -> None:
        # The previous run may have ended between an evaluation and writing this file.
        if self._is_best() and self.checkpointer.stored_iteration(self.NAME) != self.trainer.completed:
            self._save()

    def after_step(self) -> None:
        if is_due(self._period, self.trainer.iter + 1) and self.trainer.iter + 1 != self.trainer.max_iter:
            self.check()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self.check()

    def check(self) -> None:
        """Save if the last evaluation is the best."""
        problem = self._history.missing(self._metric)
        if problem:
            logger.warning("train.best_checkpoint.metric: %s; %s.pth is not written", problem, self.NAME)
        elif self._is_best():
            self._save()

    def _is_best(self) -> bool:
        _, best, iteration = self._history.since_best(self._metric, self._mode)
        return best is not None and iteration == self.trainer.completed

    def _save(self) -> None:
        _, best, iteration = self._history.since_best(self._metric, self._mode)
        logger.info("Best %s so far: %.4g after iteration %d", self._metric, best, iteration)
        self.checkpointer.save(self.NAME, iteration=iteration)


class EarlyStopping(HookBase):
    """Ends the training after ``patience`` consecutive evaluations without improvement.

    To be registered after :class:`EvaluationHook`, in all processes.

    Args:
        eval_period: of the evaluations.
        patience: evaluations.
        metric, mode: as for :class:`BestCheckpoint`.
        min_delta: by how much a value must be better to count as such.
        history: of the evaluations.
    """

    def __init__(
        self,
        eval_period: int,
        *,
        patience: int,
        metric: str,
        mode: str = "max",
        min_delta: float = 0.0,
        history: EvaluationHistory,
    ):
        self._period, self._patience, self._history = eval_period, patience, history
        self._metric, self._mode, self._min_delta = metric, mode, min_delta

    def reached(self) -> str:
        """Why the training ends, or an empty string; the same in all processes."""
        since, best, iteration = self._history.since_best(self._metric, self._mode, self._min_delta)
        text = ""
        if since >= self._patience:
            text = f"{self._metric} was best after iteration {iteration} ({best:.4g}), {since} evaluations ago"
        return comm.all_gather(text)[0]

    def after_step(self) -> None:
        if not is_due(self._period, self.trainer.iter + 1) or self.trainer.iter + 1 == self.trainer.max_iter:
            return
        problem = self._history.missing(self._metric)
        if problem:
            logger.warning("train.early_stopping.metric: %s; the training will not stop early", problem)
        reason = self.reached()
        if reason:
            logger.info("Stopping early: %s", reason)
            self.trainer.stop_early = True


def _checked_entry(entry: dict) -> dict:
    if type(entry["iteration"]) is not int:
        raise TypeError("iteration")
    return {key: None if value is None else float(value) for key, value in entry.items() if key != "iteration"} | {
        "iteration": entry["iteration"]
    }


def is_due(period: int, done: int) -> bool:
    """Whether something with this period (0 for never) is due after ``done`` iterations."""
    return period > 0 and done > 0 and done % period == 0


def _agreed(decision: bool) -> bool:
    """Broadcast the main process's decision to all processes."""
    return comm.all_gather(decision)[0]
