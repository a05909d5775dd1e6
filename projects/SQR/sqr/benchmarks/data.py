"""Does loading keep up? The training loader against the training step: ``benchmark.py data``.

For each number of workers: seconds a batch of the loader alone, once its workers run, and the share of a training
iteration that is spent waiting for data. Here the config's data are read, decoded and augmented as in a training; the
model has random weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from detectron2.config import instantiate
from omegaconf import DictConfig

from ..config import default_device, editable, load_run_config
from ..errors import UsageError, as_user_error
from .reporting import benchmark, print_table
from .subjects import Subject, add_overrides_argument
from .timing import synchronise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=20, help="batches and training steps a number of workers")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--threads", type=int, default=1, help="of the training process")
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Load and train with each number of workers."""
    if args.batches < 1 or min(args.workers) < 0:
        raise UsageError("--batches must be at least 1 and --workers at least 0")
    cfg = editable(load_run_config(args.config_file, args.overrides, device=args.device))
    subject = Subject.from_config(cfg, seed=args.seed)
    rows = [measure_workers(cfg, subject, workers, args.batches) for workers in args.workers]
    images = cfg.dataloader.train.total_batch_size
    print_table(f"{args.config_file}, batches of {images} images, {args.threads} threads, wall time", rows)
    return {"config_file": args.config_file, "images": images, "threads": args.threads, "rows": rows}


def measure_workers(cfg: DictConfig, subject: Subject, workers: int, batches: int) -> dict[str, float]:
    """Means in seconds, and the share of an iteration that is waiting.

    Means, not medians: workers hand their batches over in bursts, so most waits are next to nothing and a few are long.
    """
    alone, _ = _iterate(_batches(cfg, workers), None, batches)
    waiting, stepping = _iterate(_batches(cfg, workers), subject, batches)
    return {
        "workers": workers,
        "loader alone, s a batch": alone / batches,
        "loader alone, images/s": cfg.dataloader.train.total_batch_size * batches / alone,
        "step, s": stepping / batches,
        "wait, s": waiting / batches,
        "share of waiting": waiting / (waiting + stepping),
    }


def _batches(cfg: DictConfig, workers: int) -> Iterator[list[dict]]:
    cfg.dataloader.train.num_workers = workers
    with as_user_error(ValueError, OSError, prefix="dataloader.train: "):
        return iter(instantiate(cfg.dataloader.train))


def _iterate(loader: Iterator, subject: Subject | None, batches: int) -> tuple[float, float]:
    """Seconds waited for ``batches`` batches and, with a subject, spent in their training steps.

    The first batch, which starts the workers, is not among them.
    """
    waits, steps = [], []
    try:
        for _ in range(batches + 1):
            begin = time.perf_counter()
            batch = next(loader)
            loaded = time.perf_counter()
            if subject is not None:
                subject.step(batch)
                synchronise(subject.device)
            waits.append(loaded - begin)
            steps.append(time.perf_counter() - loaded)
    finally:
        loader.close()  # ends its workers
    return sum(waits[1:]), sum(steps[1:])
