"""What a Detectron2 user brings along: a loader, hooks, an optimizer and a trainer of their own."""

import io
import re
import sys

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset

from engine_toys import TOY_CONFIG, run_toy
from helpers import recipe
from sqr.data.shapes import ShapesSettings, register_shapes

CONFIG = f"""
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader
from engine_toys import CountingHook, ToyMapper, toy_dicts
from sqr.config import load_config

cfg = load_config({TOY_CONFIG!r})
cfg.dataloader.train = L(build_detection_train_loader)(
    dataset=L(toy_dicts)(), mapper=L(ToyMapper)(), total_batch_size=4, aspect_ratio_grouping=False
)
cfg.optimizer = L(torch.optim.SGD)(params=cfg.optimizer.params, lr=0.01, momentum=0.9, weight_decay=1e-4)
cfg.train.hooks = [L(CountingHook)(path="PATH")]
"""


def test_detectron2s_loader_own_hooks_and_sgd(tmp_path, capsys):
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(CONFIG.replace("PATH", str(tmp_path / "count")))
    assert run_toy(run, "train.max_iter=3", config=str(file)) == 0
    assert (tmp_path / "count").read_text() == "3"
    commands = f"Next:\n  sqr predict PHOTO.jpg --run {run} --weights model_best.pth\n  sqr analyze --run {run} "
    assert commands in capsys.readouterr().out
    groups = torch.load(run / "model_final.pth", weights_only=True)["trainer"]["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.9} and max(group["initial_lr"] for group in groups) == 0.01
    assert run_toy(run, "train.max_iter=5", config=str(file), resume=True) == 0
    assert (tmp_path / "count").read_text() == "2"
    assert "cannot be entered at sample 12: the resumed run draws other images" in (run / "log.txt").read_text()
    assert run_toy(run, "train.hooks=[3]", config=str(file)) == 1
    assert "train.hooks.0 is a int, not a detectron2.engine.HookBase" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_a_live_line_with_the_log_above_it(terminal, tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert run_toy(tmp_path, "train.max_iter=3", "train.log_period=2", "train.eval_period=0") == 0
    shown = screen.getvalue()
    assert ("| 3/3 [" in shown and "it/s, loss=" in shown) == terminal
    line = re.split(r"[\r\n]", shown[: shown.index("iter: 1/3")])[-1]
    assert "%|" not in line  # a log line stands alone


def test_detectron2s_own_trainer_runs_a_shipped_config(tmp_path, request):
    """What Detectron2's tools/lazyconfig_train_net.py does with a config, line by line."""
    register_shapes(tmp_path, ShapesSettings(train_images=4, val_images=2))
    request.addfinalizer(register_shapes)
    cfg = recipe("quick/sqr_deformable_detr_shapes")
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    results = []

    def evaluate():
        results.append(
            inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
        )

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, evaluate),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    trainer.train(0, 2)
    assert "AP" in results[0]["bbox"] and (tmp_path / "model_final.pth").is_file()
