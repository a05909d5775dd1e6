"""Writers: a readable console line, JSON lines and TensorBoard."""

from __future__ import annotations

import logging
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..files import append_row, json_line, read_rows, write_atomically
from .evaluation_hooks import EvaluationHistory


def default_writers(output_dir: str, max_iter: int, more: Sequence[EventWriter] = ()) -> list[EventWriter]:
    """Console, ``more`` and TensorBoard, which comes last because it clears pictures."""
    return [
        ConsoleWriter(max_iter),
        *more,
        TensorBoardWriter(output_dir),
    ]


class NewScalars:
    """The scalars of the event storage that are new since the last call.

    Decided per scalar: the last evaluation belongs to an iteration whose losses were already written, and
    Detectron2's writers, which track one iteration for all scalars, would drop it.

    Args:
        window_size: of the median.
    """

    def __init__(self, window_size: int = 20):
        self._window_size = window_size
        self._given: dict[str, int] = {}

    def __call__(self) -> list[tuple[str, float, int]]:
        """Name, value and iteration of each."""
        found = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = [(n, value, i) for n, (value, i) in found.items() if i > self._given.get(n, -1)]
        self._given.update({name: iteration for name, _, iteration in new})
        return new


class TensorBoardWriter(TensorboardXWriter):
    """Detectron2's writer, which does not drop the last evaluation (see :class:`NewScalars`)."""

    def __init__(self, log_dir: str):
        super().__init__(log_dir)
        self._new_scalars = NewScalars()

    def write(self) -> None:
        for name, value, iteration in self._new_scalars():
            self._writer.add_scalar(name, value, iteration)
        self._last_write = get_event_storage().iter  # make Detectron2's part write only the pictures
        super().write()


class ConsoleWriter(CommonMetricPrinter):
    """Detectron2's console line with the losses folded.

    A model with six stages logs 18 losses, and all of them go to JSON and TensorBoard. The console shows
    the total, the sum over stages of each kind of loss (``loss_class/stage1`` is of kind ``class``) and
    the last stage's sum; then the gradients' norm before clipping, the highest learning rate, the seconds per
    iteration, the share of them spent waiting for data, and the peak memory.
    """

    def __init__(self, max_iter: int):
        super().__init__(max_iter)
        self._last_iter: int | None = None

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter in (self._max_iter, self._last_iter):
            return  # nothing new: training is over, or this iteration was printed
        self._last_iter = storage.iter
        eta = self._get_eta(storage)
        parts = [f"eta: {eta}"] if eta else []
        parts.append(f"iter: {storage.iter}/{self._max_iter}")
        parts += [f"{name}: {value:.4g}" for name, value in self.folded_losses(storage).items()]
        if "grad_norm" in storage.histories():
            parts.append(f"grad_norm: {self._smoothed(storage, 'grad_norm'):.3g}")
        if "lr" in storage.histories():
            parts.append(f"lr: {storage.history('lr').latest():.5g}")
        if "time" in storage.histories():
            seconds, waiting = self._smoothed(storage, "time"), self._smoothed(storage, "data_time")
            parts.append(f"time: {seconds:.3g} s/it  data: {100 * min(waiting / max(seconds, 1e-9), 1):.0f}%")
        parts.append(f"max_mem: {_peak_memory_mb():.0f}M")
        self.logger.info("  ".join(parts))

    def folded_losses(self, storage: EventStorage) -> dict[str, float]:
        """Total, sum of each kind, and the last stage's sum, median-smoothed like Detectron2's."""
        losses = {n: self._smoothed(storage, n) for n in storage.histories() if n.startswith("loss_")}
        folded = {"total_loss": self._smoothed(storage, "total_loss")} if "total_loss" in storage.histories() else {}
        stages: dict[tuple[int, str], float] = {}
        for name, value in losses.items():
            kind, _, place = name.partition("/")
            kind = kind.removeprefix("loss_")
            folded[kind] = folded.get(kind, 0.0) + value
            if number := re.match(r"stage(\d+)", place):
                key = int(number[1]), place
                stages[key] = stages.get(key, 0.0) + value
        if len(stages) > 1:
            last = max(stages)
            folded[last[1]] = stages[last]
        return folded

    def _smoothed(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).median(storage.count_samples(name, self._window_size))


def write_results(results: Mapping, output_dir: str, **extra: float | str) -> None:
    """Append evaluation results to ``metrics.json`` as one line of flat keys (``bbox/AP``)."""
    flat = {k: float(v) for k, v in flatten_results_dict(results).items()}
    append_row(Path(output_dir) / "metrics.json", {**flat, **extra})
    logging.getLogger(__name__).info("Results added to %s", Path(output_dir) / "metrics.json")


class MetricsHook(HookBase):
    """Losses and rates in ``metrics.json``, a JSON line every ``period`` iterations.

    To be registered before hooks that save, so that a checkpoint is never ahead of the file. A resumed run drops
    incomplete lines and those of iterations that it repeats, and adds missing evaluations, so the file ends up with
    the lines of an uninterrupted run. Evaluations are written by their history.

    Args:
        output_dir: of the run.
        period: iterations between lines.
        history: of the run's evaluations.
    """

    def __init__(self, output_dir: str | Path, period: int, history: EvaluationHistory):
        self._path, self._period, self._history = Path(output_dir) / "metrics.json", period, history
        self._last = -1

    def before_train(self) -> None:
        self.restore(self.trainer.start_iter)

    def restore(self, start: int) -> None:
        """Bring the file to the state of an uninterrupted run before iteration ``start``."""
        rows = [row for row in read_rows(self._path) if _is_before(row, start)]
        known = {row["iteration"] for row in rows if self._history.names() & set(row) and "iteration" in row}
        rows += [entry for entry in self._history.entries if entry["iteration"] not in known]
        write_atomically(self._path, lambda file: file.write("".join(map(json_line, rows)).encode()))
        self._last = start - 1

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            self._write()

    def after_train(self) -> None:
        self._write()

    def _write(self) -> None:
        rows: dict[int, dict] = {}
        for name, (value, iteration) in self.trainer.storage.latest_with_smoothing_hint(20).items():
            if iteration > self._last and name not in self._history.names() and name != "eta_seconds":
                rows.setdefault(iteration, {"iteration": iteration})[name] = value
        for iteration in sorted(rows):
            append_row(self._path, rows[iteration])
            self._last = iteration


def _is_before(row: dict, start: int) -> bool:
    iteration = row.get("iteration")
    return iteration is None or (isinstance(iteration, int) and iteration < start)


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
