"""Kill trainings at random places, resume them, and compare with the run that was not killed, bit for bit.

    python tests/kill_campaign.py --kills 50 --seed 0

Each child process is a fork that counts its own steps, ``fsync`` and ``replace`` calls, evaluations and rows of
``metrics.json``, and is ended by SIGKILL before or after a random one of them, or in the middle of writing a
checkpoint. A run is killed up to six times and resumed with ``--resume`` each time; then checkpoints, evaluations and
the rows of ``metrics.json`` must be those of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import engine_toys
import sqr.files
from engine_toys import run_toy
from sqr.engine import Trainer

VARIANTS = {
    "plain": [],
    "workers": ["dataloader.train.num_workers=1"],
    "grouped": ["+dataloader.train.aspect_ratio_grouping=True"],
    "accumulated_ema": ["train.accumulation_steps=2", "train.ema.enabled=True", "train.ema.warmup_iters=5"],
    "every_step": ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=2", "train.eval_period=2"],
}


def compare(killed: Path, whole: Path) -> list[str]:
    """What differs between two finished runs."""
    wrong = []
    for name in ("model_final.pth", "model_best.pth"):
        a, b = (torch.load(folder / name, weights_only=True) for folder in (killed, whole))
        wrong += [f"{name}: {where}" for where in _differences(a, b) if not where.startswith(".about")]
    a, b = (json.loads((folder / "evaluations.json").read_text()) for folder in (killed, whole))
    if a != b:
        wrong.append(f"evaluations.json: {[e['iteration'] for e in a]} and {[e['iteration'] for e in b]}")
    a, b = (sorted(map(_row, (folder / "metrics.json").read_text().splitlines())) for folder in (killed, whole))
    if a != b:
        wrong.append(f"metrics.json: rows {sorted(set(a) ^ set(b))} or their number differ")
    return wrong


def _row(line: str) -> tuple[int, bool]:
    row = json.loads(line)
    return row["iteration"], "bbox/AP" in row


def _differences(a: object, b: object, where: str = "") -> list[str]:
    if isinstance(a, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [x for key in a for x in _differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [x for i, (x, y) in enumerate(zip(a, b, strict=True)) for x in _differences(x, y, f"{where}[{i}]")]
    return [] if a == b else [where]


class Events:
    """Counts what the process does and kills it at one event; to be installed in a child."""

    def __init__(self, kill_at: int, log: int):
        self.kill_at, self.log, self.count = kill_at, log, 0

    def happens(self, name: str) -> None:
        self.count += 1
        if self.count == self.kill_at:
            self.kill(name)

    def kill(self, name: str) -> None:
        os.write(self.log, name.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        for owner, attribute, name in (
            (os, "fsync", "fsync"), (os, "replace", "replace"), (Trainer, "run_step", "step"),
            (engine_toys.ToyEvaluator, "process", "evaluation"), (sqr.files, "json_line", "row"),
        ):  # fmt: skip
            setattr(owner, attribute, self._counted(getattr(owner, attribute), name))
        save = torch.save

        def torn(data: object, file: object) -> None:
            self.count += 1
            if self.count == self.kill_at:
                file.write(os.urandom(1000))
                file.flush()
                self.kill("half a checkpoint")
            save(data, file)

        torch.save = torn

    def _counted(self, function, name: str):
        def counted(*args, **kwargs):
            self.happens(f"before {name}")
            result = function(*args, **kwargs)
            self.happens(f"after {name}")
            return result

        return counted


def run_child(folder: Path, options: list[str], kill_at: int) -> tuple[int, str]:
    """Train in a fork; its exit code (-9 if killed) and where it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            Events(kill_at, writing).install()
            code = run_toy(folder, *options, resume=True)
        finally:
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    where = os.read(reading, 100).decode()
    os.close(reading)
    return os.waitstatus_to_exitcode(status), where


def campaign(kills: int, seed: int, folder: Path, report=print) -> int:
    """Run until so many kills are done; returns the number of runs that differ from the uninterrupted one."""
    rng, started = random.Random(seed), time.perf_counter()
    wholes, places, done, runs, failed = {}, Counter(), 0, 0, 0
    while done < kills:
        variant = list(VARIANTS)[runs % len(VARIANTS)]
        if variant not in wholes:
            wholes[variant] = folder / f"whole_{variant}"
            code, _ = run_child(wholes[variant], VARIANTS[variant], -1)
            assert code == 0, f"the uninterrupted run of {variant} failed with {code}"
        run, own = folder / f"run_{runs}", 0
        for _ in range(min(rng.randint(1, 6), kills - done)):
            code, where = run_child(run, VARIANTS[variant], rng.randint(1, 160))
            if code != -signal.SIGKILL:
                break
            places[where] += 1
            own += 1
        done, runs = done + own, runs + 1
        code, _ = run_child(run, VARIANTS[variant], -1)
        wrong = compare(run, wholes[variant]) if code == 0 else [f"exit code {code} on resuming"]
        if wrong:
            failed += 1
            report(f"FAILED {run} ({variant}, {own} kills): {'; '.join(wrong[:4])}")
    for place, count in sorted(places.items()):
        report(f"{count:5d}  {place}")
    report(f"{done} kills in {runs} runs, {runs - failed} of {runs} as if never killed; "
           f"seed {seed}, {time.perf_counter() - started:.0f} s")  # fmt: skip
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return min(campaign(args.kills, args.seed, Path(folder)), 1)


if __name__ == "__main__":
    sys.exit(main())
