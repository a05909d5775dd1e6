"""Two CPU processes do what one does with both batches; signals and errors of several processes."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser, launch

from engine_toys import TOY_CONFIG, read_metrics
from engine_workers import DETECTORS, train_or_fail, work
from sqr.cli import train
from sqr.cli.launching import run_command
from sqr.distributed import check_num_processes
from sqr.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed")
    work(str(path))
    cuda = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo, whatever the machine has
    try:
        launch(work, 2, dist_url="auto", args=(str(path),))
    finally:
        if cuda is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = cuda
    return path


def test_two_processes_have_the_gradients_of_one(folder):
    one, *two = (torch.load(folder / f"gradients_{name}.pth", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    for name, gradient in one.items():
        for other in two:
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detector", DETECTORS)
def test_checkpointed_passes_on_two_processes_have_the_gradients_of_one_without(folder, detector):
    one, *two = (torch.load(folder / f"{detector}_{name}.pth", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    noise = 1e-6 * max(gradient.norm() for gradient in one.values())
    for name, gradient in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        assert (two[0][name] - gradient).norm() <= 1e-3 * gradient.norm() + noise, name


@pytest.mark.parametrize("kind", ["run", "parts"], ids=["at_once", "accumulated"])
def test_two_processes_train_and_evaluate_like_one(folder, kind):
    names = ("run_1", f"{kind}_2")
    one, two = (torch.load(folder / name / "model_final.pth", weights_only=True) for name in names)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-5)
    assert one["trainer"]["samples_seen"] == two["trainer"]["samples_seen"] == 16
    a, b = (read_metrics(folder / name) for name in names)
    for name in (k for k in a[2] if "loss" in k):
        assert b[2][name] == pytest.approx(a[2][name], rel=1e-4), name


@pytest.mark.slow
def test_an_error_in_several_processes_is_an_exit_code(capfd):
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", opts=["train.device=cpu"])
    assert run_command(train_or_fail, args) == 1
    err = capfd.readouterr().err
    assert "error: this dataset is empty" in err and "Traceback" not in err


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--num-gpus 2, but this machine has 1"):
        check_num_processes(2, "cuda")
    check_num_processes(2, "cpu")
    with pytest.raises(UsageError, match="must not be negative"):
        check_num_processes(-1, None)


def start(output, *options):
    command = [sys.executable, str(ROOT / "projects/SQR/train_net.py"), "--config-file", TOY_CONFIG, *options]
    overrides = [
        f"train.output_dir={output}",
        "train.max_iter=1000000",
        "train.eval_period=0",
        "train.log_period=1",
    ]
    overrides += ["train.checkpointer.period=1000000", "train.device=cpu", "dataloader.train.num_workers=1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/projects/SQR:{ROOT}/tests", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *overrides], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGINT, []), (signal.SIGTERM, ["--num-gpus", "2", "--dist-url", "auto"])],
    ids=["ctrl_c_one_process", "sigterm_two_processes"],
)
@pytest.mark.slow
def test_signal_to_the_whole_group_saves_and_leaves(tmp_path, number, options):
    process = start(tmp_path, *options)
    try:
        deadline = time.monotonic() + 400
        while not (tmp_path / "metrics.json").exists() or not (tmp_path / "metrics.json").stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline, "training did not start"
            time.sleep(0.2)
        os.killpg(process.pid, number)
        err = process.communicate(timeout=200)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, err
    assert f"error: stopped by {number.name} after " in err and "--resume" in err and "Traceback" not in err
    name = (tmp_path / "last_checkpoint").read_text()
    assert torch.load(tmp_path / name, weights_only=True)["iteration"] == int(name[6:13])


@pytest.mark.slow
def test_an_error_on_one_process_saves_what_all_have_done(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = ["--num-gpus", "2", "--dist-url", "auto", f"train.output_dir={tmp_path}", "train.device=cpu"]
    # image 104 is number 9 of the run: process 1 fails to load it in the third iteration, which process 0 is in
    options += ["dataloader.train.mapper._target_=engine_toys.BrokenMapper", "train.eval_period=0"]
    args = default_argument_parser().parse_args(["--config-file", TOY_CONFIG, *options])
    assert run_command(train.run, args) == 1
    assert "error: cannot load the training image toy_4.png" in capfd.readouterr().err
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    saved = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert saved["trainer"]["samples_seen"] == 8
