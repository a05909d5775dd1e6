"""Measures the missing cells of a study."""

from __future__ import annotations

import fcntl
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch

from ..engine.startup import git_state
from ..errors import UserError, one_line
from .definition import RESULTS, Cell, Study
from .kinds import KINDS
from .kinds.training import NotReadyError
from .provenance import machine
from .results import Context, Result, result_path, save_result


def run_study(
    study: Study,
    *,
    work: Path,
    data: Path,
    results: Path = RESULTS,
    workers: int = 1,
    arms: Sequence[str] = (),
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    limit: int | None = None,
    with_changes: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Measure the cells without a result, each in a separate process.

    Cells that another call is measuring are skipped. Interrupted cells are measured again by the next call; trainings
    resume.

    Args:
        study: to measure.
        work: folder of files that may be deleted afterwards: caches, trainings.
        data: folder of the datasets, which replaces ``{data}`` in a study.
        results: folder of the results.
        workers: concurrent processes; 0 measures in this one.
        arms, datasets, seeds: only these; all when empty.
        limit: maximum number of cells to measure.
        with_changes: measure although the checkout has uncommitted changes; the results say so.
        say: called with a line of text per cell.

    Returns:
        The number of cells still missing.

    Raises:
        UserError: an unknown kind, arm, dataset or seed, or uncommitted changes.
    """
    if study.kind not in KINDS:
        raise UserError(f"{study.name}: unknown kind {study.kind!r}; one of {', '.join(KINDS)}")
    choices = (("arm", arms, study.arms), ("dataset", datasets, study.datasets), ("seed", seeds, study.seeds))
    for what, asked, there in choices:
        strangers = [x for x in asked if x not in there]
        if strangers:
            raise UserError(f"{study.name} has no {what} {strangers[0]!r}; it has {', '.join(map(str, there))}")
    if git_state().endswith("with changes") and not with_changes:
        raise UserError("the checkout has uncommitted changes: commit them first, since results name their commit")
    arms, datasets, seeds = arms or study.arms, datasets or study.datasets, seeds or study.seeds
    wanted = [c for c in study.cells() if c.arm in arms and c.dataset in datasets and c.seed in seeds]
    missing = [cell for cell in wanted if not result_path(cell, results).is_file()]
    context = Context(work, data, results)
    jobs = [(cell, context) for cell in missing[:limit]]
    say(f"{study.name}: {len(wanted) - len(missing)} of {len(wanted)} cells are measured, {len(jobs)} to do")
    with ThreadPool(workers) if workers else nullcontext() as pool:
        texts = pool.imap_unordered(_measure_in_process, jobs) if pool else map(_measure_job, jobs)
        for number, text in enumerate(texts, start=1):
            say(f"{number}/{len(jobs)} {text}")
    return sum(not result_path(cell, results).is_file() for cell in wanted)


def _measure_in_process(job: tuple[Cell, Context]) -> str:
    """Measure one cell in a new process, which may start processes of its own, as data loaders do."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(_measure_job, job).result()
        except BrokenExecutor:
            return f"{job[0].key}: error: its process was killed; the next call measures it again"


def _measure_job(job: tuple[Cell, Context]) -> str:
    cell, context = job
    torch.set_num_threads(1)
    with _claimed(context.work / cell.study.name / f"{cell.key}.lock") as mine:
        if not mine:
            return f"{cell.key}: another process measures it"
        if result_path(cell, context.results).is_file():
            return f"{cell.key}: measured by another process"
        try:
            result = measure(cell, context)
        except NotReadyError as error:
            return one_line(error)
        except (UserError, ValueError, OSError) as error:
            return f"{cell.key}: error: {one_line(error)}"
        return f"{cell.key}: AP {result.value:.2f} in {result.seconds:.0f} s"


def measure(cell: Cell, context: Context) -> Result:
    """Measure one cell in this process and write its result."""
    start, before = time.monotonic(), _cpu_seconds()
    found = KINDS[cell.study.kind](cell, context)
    own, children = (resource.getrusage(who).ru_maxrss * 1024 for who in _WHO)
    result = Result(
        study=cell.study.name,
        arm=cell.arm,
        dataset=cell.dataset,
        seed=cell.seed,
        commit=git_state(),
        machine=machine(),
        command=command_of(cell),
        seconds=time.monotonic() - start,
        cpu_seconds=_cpu_seconds() - before,
        peak_memory=max(own, children),
        measurement=found,
    )
    save_result(result, result_path(cell, context.results))
    return result


def command_of(cell: Cell) -> str:
    """The shell command that measures this cell."""
    arm, dataset = ("'" + name.replace("'", "'\\''") + "'" for name in (cell.arm, cell.dataset))
    return f"projects/SQR/tools/study.py run {cell.study.name} --arms {arm} --seeds {cell.seed} --datasets {dataset}"


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, _WHO))


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock; the system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
