"""Interleaved timing: every variant once, then all of them again, so that other load slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

TOTAL = "total"
FIRST = "first call"
Clocks = tuple[float, float]  # seconds of wall time and of the process's CPU time


class Laps:
    """Measures the times of a call's parts: ``laps("forward")`` ends a part and starts the next.

    Args:
        device: synchronized at the end of each part.
        parts: False to measure only the total, without synchronization between the parts, so that a GPU's queue never
            runs empty and the call takes as long as without measurement.
    """

    def __init__(self, device: str, *, parts: bool = True):
        self._device, self._takes_parts = device, parts
        self.parts: dict[str, Clocks] = {}
        self.start()

    def start(self) -> None:
        """Start the first part now."""
        self._begin = self._last = self._now()

    def __call__(self, name: str) -> None:
        if not self._takes_parts:
            return
        now = self._now()
        wall, cpu = self.parts.get(name, (0.0, 0.0))
        self.parts[name] = (wall + now[0] - self._last[0], cpu + now[1] - self._last[1])
        self._last = now

    def total(self) -> Clocks:
        """The time since the start."""
        now = self._now()
        return now[0] - self._begin[0], now[1] - self._begin[1]

    def _now(self) -> Clocks:
        synchronise(self._device)
        return time.perf_counter(), time.process_time()


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, device: str = "cpu", repeats: int = 5, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Time every variant ``repeats`` times in turn.

    Args:
        variants: name to a call without arguments.
        device: such as ``cpu`` or ``cuda:1``; a GPU is synchronised around every call.
        repeats: timed calls of each variant.
        warmup: untimed calls of each variant before.

    Returns:
        For each variant ``median_ms``, ``best_ms`` and ``p90_ms`` of wall time, and on the CPU ``cpu_ms``, the median
        of the process's CPU time: it varies less on a shared machine.
    """
    samples: dict[str, list[Clocks]] = {name: [] for name in variants}
    for step in range(warmup + repeats):
        for name, call in variants.items():
            laps = Laps(device)
            call()
            total = laps.total()
            if step >= warmup:
                samples[name].append(total)
    return {name: _summary(clocks, device) for name, clocks in samples.items()}


def interleaved_parts(
    variants: Mapping[str, Callable[[Laps], object]], *, device: str = "cpu", repeats: int = 5, warmup: int = 1
) -> dict[str, dict[str, dict[str, float]]]:
    """As :func:`interleaved`, for calls that take a :class:`Laps` and mark the ends of their parts with it.

    On a CPU one call gives the parts and the total. On a GPU, where measuring a part requires synchronization, every
    turn consists of two calls: one for the total, without synchronization, and one for the parts, whose sum is larger.

    Returns:
        For each variant and part, and for ``total``, what :func:`interleaved` returns for a variant; also for ``first
        call``, the very first one, which compiles and allocates.
    """
    samples: dict[str, dict[str, list[Clocks]]] = {name: {} for name in variants}
    for step in range(warmup + repeats):
        for name, call in variants.items():
            total, parts = _call(call, device)
            kept = [*parts.items(), (TOTAL, total)] if step >= warmup else []
            for part, clocks in [(FIRST, total)] * (step == 0) + kept:
                samples[name].setdefault(part, []).append(clocks)
    return {name: {part: _summary(clocks, device) for part, clocks in parts.items()} for name, parts in samples.items()}


def _call(call: Callable[[Laps], object], device: str) -> tuple[Clocks, dict[str, Clocks]]:
    """The total and the parts of a turn."""
    total = None
    if device != "cpu":
        laps = Laps(device, parts=False)
        call(laps)
        total = laps.total()
    laps = Laps(device)
    call(laps)
    return total or laps.total(), laps.parts


def least_disturbed(device: str) -> str:
    """The key of :func:`interleaved`'s times to compare: CPU time where one thread does the work, else wall time."""
    return "cpu_ms" if device == "cpu" and torch.get_num_threads() == 1 else "median_ms"


def synchronise(device: str) -> None:
    """Wait until the GPU ``device`` has finished all queued work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _summary(clocks: list[Clocks], device: str) -> dict[str, float]:
    walls = sorted(1e3 * wall for wall, _ in clocks)
    summary = {
        "median_ms": statistics.median(walls),
        "best_ms": walls[0],
        "p90_ms": walls[math.ceil(0.9 * len(walls)) - 1],
    }
    if device == "cpu":
        summary["cpu_ms"] = statistics.median(1e3 * cpu for _, cpu in clocks)
    return summary


def bandwidth(device: str, megabytes: int = 256) -> float:
    """Bytes per second of a copy, counting both the reads and the writes."""
    source = torch.empty(megabytes << 18, dtype=torch.float32, device=device).fill_(1)
    target = torch.empty_like(source)
    timed = interleaved({"copy": lambda: target.copy_(source)}, device=device)
    return 2 * source.numel() * 4 / (_least_ms(timed["copy"], device) * 1e-3)


def flops(device: str, size: int = 1024) -> float:
    """Floating-point operations per second of a float32 matrix product."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    timed = interleaved({"product": lambda: a @ b}, device=device)
    return 2 * size**3 / (_least_ms(timed["product"], device) * 1e-3)


def _least_ms(times: dict[str, float], device: str) -> float:
    """The time that other load disturbs least: CPU time if one thread does the work."""
    return times["cpu_ms"] if least_disturbed(device) == "cpu_ms" else times["best_ms"]
