"""Building: an install succeeds with any compiler or none, and the CUDA build holds what it should."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from compilers import ROOT, needs_compiler, needs_nvcc, run


def build(folder, command=("build_ext",), **environment):
    """Run setup.py with all that it writes in ``folder``: its output, and what it noted of the build."""
    lib = folder / "lib"
    places = ["--build-lib", lib, *(["--build-temp", folder / "temp"] if "build_ext" in command else [])]
    output = run([sys.executable, ROOT / "setup.py", *command, *places], **environment)
    return output, json.loads((lib / "sqr" / "ops" / "build_info.json").read_text())


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_nothing_is_compiled_when_told_so(tmp_path):
    (ROOT / "configs").exists() or pytest.skip("build_py wants configs/, which this tree does not have")
    output, info = build(tmp_path, ("build_py",), SQR_BUILD_OPS="0")
    assert info == {"failure": "SQR_BUILD_OPS=0"}
    assert "the compiled operators are not built: SQR_BUILD_OPS=0" in output
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("compiler", ["false", "/nowhere/g++"], ids=["broken", "absent"])
def test_a_compiler_that_fails_does_not_fail_the_install(tmp_path, compiler):
    output, info = build(tmp_path, CXX=compiler, CC=compiler)
    assert compiler in info["failure"]
    assert "the operators did not compile" in output
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
@needs_nvcc
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA to build for")
def test_cuda_build_spills_nothing_and_imports_without_a_gpu(tmp_path):
    """The build CI makes each time: sm_80, sm_90 and PTX, from setup.py as a user would run it."""
    output, info = build(tmp_path, FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX", NVCC_APPEND_FLAGS="-Xptxas -v")
    assert "failure" not in info, info
    assert info["cuda_architectures"] == "8.0;9.0+PTX"
    entries = re.findall(r"Compiling entry function '(\S+)' for '(sm_\d+)'", output)
    assert {arch for _, arch in entries} == {"sm_80", "sm_90"}
    assert sum("forward_kernel" in name for name, _ in entries) >= 16
    spills = re.findall(r"(\d+) bytes spill stores", output)
    assert len(spills) >= len(entries)
    assert set(spills) == {"0"}, "a kernel spills registers: see the output of -Xptxas -v"

    library = next((tmp_path / "lib").rglob("_C*.so"))
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]);"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key;"
        "print([has(f'sqr::{name}', 'CUDA') for name in sys.argv[2:]])"
    )
    names = [x + y for x in ("ms_deform_attn", "adaptive_sample") for y in ("", "_backward")]
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    assert run([sys.executable, "-c", code, library, *names], **hidden).strip() == str([True] * 4)


@needs_compiler
def test_package_without_extension_imports_and_runs(tmp_path):
    """A copy of the package without its extension, as an install without a compiler leaves it."""
    package = tmp_path / "sqr"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "build_info.json")
    shutil.copytree(ROOT / "projects" / "SQR" / "sqr", package, ignore=ignore)
    result = subprocess.run(
        [sys.executable, "-m", "sqr.ops"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert "PyTorch reference: no compiled extension" in result.stdout
    assert result.stderr.count("runs the slower PyTorch reference") == 1
