"""Interleaved timing: every variant once, then all of them again, so that a busy machine slows them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, device: str = "cpu", repeats: int = 5, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Time every variant ``repeats`` times in turn.

    Args:
        variants: name to a call without arguments.
        device: ``cpu`` or ``cuda``, which is synchronised around every call.
        repeats: timed calls of each variant.
        warmup: calls of each variant before.

    Returns:
        For each variant ``median_ms`` and ``best_ms`` of wall time, and on the CPU ``cpu_ms``, the median of
        the process's CPU time: on a machine shared with others it moves less.
    """
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(warmup + repeats):
        for name, call in variants.items():
            _synchronise(device)
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            _synchronise(device)
            if step >= warmup:
                walls[name].append((time.perf_counter() - wall) * 1e3)
                cpus[name].append((time.process_time() - cpu) * 1e3)
    results = {}
    for name in variants:
        results[name] = {"median_ms": statistics.median(walls[name]), "best_ms": min(walls[name])}
        if device == "cpu":
            results[name]["cpu_ms"] = statistics.median(cpus[name])
    return results


def bandwidth(device: str, megabytes: int = 256) -> float:
    """Bytes a second of a copy, counting both the reads and the writes."""
    source = torch.empty(megabytes << 18, dtype=torch.float32, device=device).fill_(1)
    target = torch.empty_like(source)
    timed = interleaved({"copy": lambda: target.copy_(source)}, device=device)
    return 2 * source.numel() * 4 / (_least_ms(timed["copy"], device) * 1e-3)


def flops(device: str, size: int = 1024) -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    timed = interleaved({"product": lambda: a @ b}, device=device)
    return 2 * size**3 / (_least_ms(timed["product"], device) * 1e-3)


def _least_ms(times: dict[str, float], device: str) -> float:
    """What others on the machine disturb least: CPU time where one thread does the work."""
    return times["cpu_ms"] if device == "cpu" and torch.get_num_threads() == 1 else times["best_ms"]


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
