"""Two processes started by torchrun train and evaluate as one process does with both batches."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine_toys import read_metrics, run_toy
from sqr.cli.launching import run_command
from sqr.distributed import is_launched_process
from tiny_coco import CONFIG, SMALL, dataset_overrides, write_tiny_coco

ROOT = Path(__file__).parents[2]
# BatchNorm's statistics are each process's own; frozen, two processes and one compute the same.
FROZEN = ["model.backbone.stem.norm=FrozenBN", *(f"model.backbone.stages.{i}.norm=FrozenBN" for i in range(3))]


def torchrun(processes, *arguments):
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}/projects/SQR:{ROOT}/tests", "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(ROOT / "projects/SQR/train_net.py"), "--config-file", *arguments],
        env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    folder = write_tiny_coco(tmp_path / "data", counts=(2, 0, 3, 1, 2))
    options = [*dataset_overrides(folder), *SMALL, *FROZEN, "train.max_iter=2", "train.log_period=1"]
    assert run_toy(tmp_path / "one", *options, config=CONFIG) == 0
    done = torchrun(2, CONFIG, f"train.output_dir={tmp_path / 'two'}", *options)
    assert done.returncode == 0, done.stderr[-2000:]

    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for iteration in (0, 1):
        assert len([k for k in one[iteration] if k.startswith("loss_")]) >= 18
        for name in (k for k in one[iteration] if "loss" in k or k == "grad_norm"):
            assert two[iteration][name] == pytest.approx(one[iteration][name], rel=1e-3, abs=1e-4), name
    a, b = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("one", "two"))
    assert a["trainer"]["samples_seen"] == b["trainer"]["samples_seen"] == 8
    for name, value in a["model"].items():
        torch.testing.assert_close(b["model"][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

    first, second = (json.loads((tmp_path / n / "coco_instances_results.json").read_text()) for n in ("one", "two"))
    assert len(first) == len(second) and {r["image_id"] for r in first} == {1, 2, 3, 4, 5}
    for image in range(1, 6):
        scores = [sorted(r["score"] for r in results if r["image_id"] == image) for results in (first, second)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert two[1]["bbox/AP"] == pytest.approx(one[1]["bbox/AP"], abs=0.5)


def test_only_several_processes_are_joined(monkeypatch, capsys):
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", "1")
    assert not is_launched_process()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_launched_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_launched_process()
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", opts=[])
    assert run_command(lambda args: None, args) == 2
    assert "error: torchrun starts the processes; leave out --num-gpus and --num-machines" in capsys.readouterr().err
