"""A wheel built from the repository carries package and configs, with or without compiled operators."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from helpers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".venv", ".git", "output", "build", "*.so", "*.egg-info", "datasets")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True, env={**os.environ, "SQR_BUILD_OPS": "0"})
    (path,) = folder.glob("detectron2_sqr-*.whl")
    return path


def test_wheel_holds_every_config(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configs = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.py")}
    assert {f"sqr/model_zoo/configs/{c}" for c in configs} <= names
    assert "sqr/model_zoo/checkpoints/sqr_deformable_detr_shapes.pth" in names
    assert not [n for n in names if n.startswith(("tests/", "configs/", "projects/"))]


def test_installed_wheel_finds_its_configs_and_runs_the_reference(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import sqr, torch; from sqr import model_zoo, ops\n"
        "assert sqr.__file__.startswith(SITE), sqr.__file__\n"
        "assert model_zoo.get_config_file('quick/sqr_deformable_detr_shapes').startswith(SITE)\n"
        "assert model_zoo.get_config('quick/sqr_deformable_detr_shapes').model.decoder.plan == 'selective'\n"
        "assert not model_zoo.get('quick/sqr_deformable_detr_shapes', trained=True, device='cpu').training\n"
        "v = torch.rand(1, 4, 1, 2); loc = torch.rand(1, 3, 1, 1, 2, 2); w = torch.rand(1, 3, 1, 1, 2)\n"
        "assert ops.ms_deform_attn(v, [(2, 2)], loc, w).shape == (1, 3, 2)\n"
    ).replace("SITE", repr(str(tmp_path / "site")))
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=env)
