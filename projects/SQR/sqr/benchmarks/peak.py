"""Measured peak memory of a training step.

On a CPU each measurement is a fresh process (``python -m sqr.benchmarks.peak``): the peak of its resident
memory during one step, minus that of the process before the model was built. Its allocator returns freed memory
immediately, so that the figure reflects live tensors rather than the allocator. On a GPU it is
``torch.cuda.max_memory_allocated`` of that device in this process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch

from ..errors import UserError, one_line, report_error
from .executions import running
from .subjects import Subject, load_subject_config, random_batch

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
_REFUSED = "DefaultCPUAllocator: "  # in PyTorch's message when the system refuses memory
PARTS = ("step", "decoder")


@dataclass
class Measurement:
    """What to measure: one training step, or only the part after the encoder (``part="decoder"``)."""

    config_file: str
    overrides: list[str]
    size: tuple[int, int]
    batch: int
    objects: int
    device: str
    threads: int
    seed: int
    plan: str | Mapping | Sequence
    execution: str | None = "folded"
    part: str = "step"

    @staticmethod
    def of(args: argparse.Namespace, **what: object) -> Measurement:
        """From a command's arguments, overridden and completed by ``what``."""
        given = {field.name: getattr(args, field.name) for field in fields(Measurement) if hasattr(args, field.name)}
        return Measurement(**{**given, **what})


@dataclass
class Peak:
    """Bytes: of what is there before a step (parameters, optimizer state, and gradients where a batch is fed in parts);
    of its highest moment, those included."""

    state: int
    peak: int


class DoesNotFit(UserError):
    """There is not enough memory for the step."""


def measure(what: Measurement) -> Peak:
    """Measure on ``what.device``.

    Raises:
        DoesNotFit: memory ran out; on a CPU, the process that measures was killed or could not allocate.
        UserError: the process that measures failed; its last line is the message.
    """
    name = f"measuring the memory of {what.plan}, {what.execution or 'the options of the config'}"
    if what.device != "cpu":
        try:
            return _measure_here(what)
        except torch.OutOfMemoryError as error:
            raise DoesNotFit(f"{name}: {one_line(error)}") from error
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **_ALLOCATOR, "PYTHONPATH": path, "OMP_NUM_THREADS": str(what.threads)}
    command = [sys.executable, "-m", __name__, json.dumps(asdict(what))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        killed = result.returncode == -signal.SIGKILL
        failure = DoesNotFit if killed or _REFUSED in result.stderr else UserError
        raise failure(f"{name}: {'killed by the system' if killed else last.removeprefix('error: ')}")
    return Peak(**json.loads(result.stdout.splitlines()[-1]))


def _measure_here(what: Measurement) -> Peak:
    """Run one step to warm up, then measure one.

    Both have the same shapes, for which oneDNN creates and caches kernels once (tens of megabytes in bfloat16).
    """
    on_cpu = what.device == "cpu"
    device = torch.device(what.device)
    outside = _resident() if on_cpu else torch.cuda.memory_allocated(device)
    cfg = load_subject_config(argparse.Namespace(**asdict(what)))
    subject = Subject.from_config(cfg, seed=what.seed)
    batch = random_batch(
        what.size, images=what.batch, objects=what.objects, num_classes=subject.model.num_classes, seed=what.seed
    )
    in_parts = what.part == "step" and cfg.train.get("accumulation_steps", 1) > 1
    with running(subject.model, what.plan, what.execution):
        subject.step(batch)  # the optimizer's state exists from here on
        if what.part == "decoder":
            step = partial(subject.decoder_step, *subject.encode(batch))
        else:
            step = partial(subject.step, batch, keep_gradients=in_parts)
        if not in_parts:
            subject.optimizer.zero_grad()
        gc.collect()
        state = state_bytes(subject)
        if not on_cpu:
            torch.cuda.reset_peak_memory_stats(device)
            step()
            return Peak(state, torch.cuda.max_memory_allocated(device) - outside)
        # Exclude what libraries loaded and cached in the warm-up.
        outside = max(outside, _resident() - state)
        _reset_peak()
        step()
        return Peak(state, _peak() - outside)


def state_bytes(subject: Subject) -> int:
    """Bytes of parameters, buffers, gradients and optimizer state."""
    tensors = [*subject.model.parameters(), *subject.model.buffers()]
    tensors += [p.grad for p in subject.model.parameters() if p.grad is not None]
    for state in subject.optimizer.state.values():
        tensors += [x for x in state.values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in tensors)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise UserError(f"/proc/self/status has no {key}: memory can be measured only on Linux")


def _resident() -> int:
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def _reset_peak() -> None:
    """Reset the peak to what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise UserError(f"the kernel does not let a process reset its peak memory ({error})") from error


def _main() -> int:
    values = json.loads(sys.argv[1])
    what = Measurement(**{**values, "size": tuple(values["size"])})
    torch.set_num_threads(what.threads)
    try:
        print(json.dumps(asdict(_measure_here(what))))
    except UserError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
