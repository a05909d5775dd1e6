"""Weights & Biases, with a stand-in for the package: what it is given, and what happens without it."""

import sys
import types

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from engine_toys import run_toy
from sqr.engine.wandb_writer import WandbWriter


class FakeRun:
    def __init__(self, options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    made = []

    def init(**options):
        made.append(FakeRun(options))
        return made[-1]

    module = types.SimpleNamespace(init=init, Image=lambda array: ("image", array.shape))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return made


def test_a_run_is_logged_and_a_resumed_one_goes_on_with_the_same_id(runs, tmp_path):
    options = ["train.wandb.enabled=True", "train.wandb.project=birds"]
    assert run_toy(tmp_path, "+model.interrupt_at=7", *options) == 130
    assert run_toy(tmp_path, *options, resume=True) == 0
    first, second = runs
    assert first.options["project"] == "birds" and first.options["name"] == tmp_path.name
    assert first.options["id"] == second.options["id"] == (tmp_path / "wandb_id.txt").read_text()
    assert first.options["config"]["train"]["seed"] == 42 and first.finished and second.finished
    steps = [step for step, _ in first.logged + second.logged]
    assert steps == sorted(steps)
    values = dict(first.logged + second.logged)
    assert {"total_loss", "lr", "loss_box/stage2"} <= values[5].keys() and values[7]["bbox/AP"] == 5.0
    assert values[11]["bbox/AP"] == 5.0  # the last one, which comes after the losses of its iteration


def test_pictures_are_logged_and_left_for_tensorboard(runs, tmp_path):
    writer = WandbWriter(str(tmp_path), config={})
    with EventStorage(4) as storage:
        storage.put_image("validation/1", np.zeros((3, 4, 6), np.uint8))
        writer.write()
        assert len(storage._vis_data) == 1
    assert runs[0].logged == [(4, {"validation/1": ("image", (4, 6, 3))})]


def test_without_the_package_it_is_one_line_before_any_data_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    broken = "dataloader.train.dataset._target_=engine_toys.read_metrics"  # would fail when loaded
    assert run_toy(tmp_path, "train.wandb.enabled=True", broken, "+dataloader.train.dataset.output_dir=x") == 2
    err = capsys.readouterr().err
    assert "error: train.wandb.enabled=True needs the package wandb: pip install wandb" in err
    assert run_toy(tmp_path, "train.max_iter=1") == 0  # nobody else needs it
