"""A wheel built from the repository carries package and configs, with or without compiled operators."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
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


def test_installed_wheel_has_the_command_and_needs_no_checkout(wheel, tmp_path):
    """An environment of its own whose only links to this one are the third-party packages."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # editable installs are not followed
    python, sqr = venv / "bin" / "python", venv / "bin" / "sqr"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run([str(c) for c in command], cwd=elsewhere, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "train a detector" in run(sqr, "--help")
    assert "quick/sqr_deformable_detr_shapes*" in run(sqr, "configs", "ls", "quick/*")
    run(sqr, "configs", "cp", "quick/sqr_deformable_detr_shapes", "mine.py")
    loaded = "from sqr.config import load_config; print(load_config('mine.py').model.decoder.plan)"
    assert run(python, "-c", loaded).strip() == "selective"
    assert "32 supervised sets" in run(sqr, "plan", "selective")


def test_metadata_names_what_a_reader_looks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    for extra in ("timm", "export", "video", "wandb", "bench", "transformers"):
        assert f"Provides-Extra: {extra}" in text
    assert "Project-URL: Detectron2" in text and "Classifier: Programming Language :: Python :: 3.13" in text


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
