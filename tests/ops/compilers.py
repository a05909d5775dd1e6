"""Compilers for the tests of the operators' sources, and where those sources are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "projects" / "SQR" / "sqr" / "csrc"
HERE = Path(__file__).resolve().parent  # cuda_emulation.h
HARNESS = HERE / "emulated_kernels.cpp"
TORCH = Path(torch.__file__).resolve().parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def run(command: list, **environment: str) -> str:
    """Run a command that must succeed and return what it printed."""
    result = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    return output


def build_emulated_library(folder: Path) -> Path:
    """The CUDA operators compiled for the host, registered for CPU tensors as ``torch.ops.sqr_emulated``."""
    flags = ["-std=c++20", "-O1", "-fPIC", "-w", STABLE_ABI, "-isystem", TORCH / "include"]
    flags += [f"-I{HERE}", "-DSQR_EMULATED", "-DSQR_NAMESPACE=sqr_emulated", "-DSQR_DISPATCH_KEY=CPU"]
    library = folder / "sqr_emulated.so"
    sources = ["-x", "c++", CSRC / "cuda" / "operators.cu", CSRC / "operators.cpp"]
    run(["g++", *flags, "-shared", *sources, "-o", library, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"])
    return library


def build_harness(folder: Path, kernels: Path, *flags: str) -> Path:
    """The harness around ``kernels``, a variant of cuda/sampling.cuh."""
    program = folder / "emulated_kernels"
    define = f'-DSQR_KERNELS="{kernels}"'
    run(["g++", "-std=c++17", "-g1", "-w", *flags, f"-I{CSRC}", f"-I{HERE}", define, HARNESS, "-o", program])
    return program
