"""Where a result comes from: code, machine, command."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path

import torch

import sqr

from ..benchmarks.reporting import describe_machine


@functools.cache
def code_version() -> str:
    """The commit, marked where the checkout has changes; "unknown" outside of one."""
    folder = Path(sqr.__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            " with changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """Processor, cores, threads and versions on one line."""
    found = describe_machine("cpu")
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
