"""The parts that all benchmark reports share, and printing of tables."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from ..distributed import resolve_device
from ..errors import UsageError
from ..host_memory import keep_freed_memory
from ..ops.functional import library
from .timing import least_disturbed

GIGABYTE = 1e9

Run = Callable[[argparse.Namespace], dict]


def benchmark(run: Run) -> Run:
    """Run a benchmark with ``args.threads`` threads and prepend machine and arguments to its report.

    Adds the keys ``machine`` (:func:`describe_machine`), ``arguments``, and, if there is a single number of threads,
    ``clock``: the key of the times to compare.

    Raises:
        UsageError: fewer than one thread.
        UserError: a device that does not exist.
    """

    @functools.wraps(run)
    def with_report(args: argparse.Namespace) -> dict:
        resolve_device(args.device)
        if torch.device(args.device).type == "cpu":
            keep_freed_memory()  # as in training
        one_count = isinstance(args.threads, int)  # `ops` goes through several
        with use_threads(args.threads) if one_count else contextlib.nullcontext():
            found = {"machine": describe_machine(args.device), "arguments": _plain(vars(args))}
            if one_count:
                found["clock"] = least_disturbed(args.device)
            return found | run(args)

    return with_report


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Inside this context PyTorch works with ``count`` threads.

    Raises:
        UsageError: fewer than one.
    """
    if count < 1:
        raise UsageError(f"--threads {count}: at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: str) -> dict:
    """The device's and the processor's name, cores that this process may use, threads, versions, the operators."""
    processor = _processor()
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else processor,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "pytorch": torch.__version__,
        "python": platform.python_version(),
        "operators": str(library.path and library.path.name) if not library.reason else library.reason,
        "instruction_set": library.instruction_set() if library.path else "",
        **library.build_info,
    }


def print_table(title: str, rows: Sequence[Mapping], digits: int = 3) -> None:
    """Print a title and a Markdown table."""
    table = tabulate(rows, headers="keys", tablefmt="github", floatfmt=f".{digits}f")
    print(f"\n{title}\n{table}", flush=True)


def _processor() -> str:
    """The processor's model, on Linux from the kernel, which is more precise than Python."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _plain(values: Mapping) -> dict:
    return {
        key: value if isinstance(value, (int, float, list, str, type(None))) else str(value)
        for key, value in values.items()
    }
