"""tools/convert_checkpoint.py: files in, files out, and one line for what does not fit."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyConfig

from helpers import ROOT, build, random_batch
from small_models import DETECTORS, HYBRID, SPECIAL_FIRST, lively, small_config
from sqr.checkpoint.loading import load_model_weights
from sqr.checkpoint.shrink import last_stage_alone, looped_config, trains_the_loop
from sqr.cli.convert import main
from sqr.config import load_config, save_config
from sqr.recollection import Plan


def training_config(detector: str, plan: str = "dense_recurrent", num_stages: int = 3):
    """A whole config: a quick recipe with a narrowed model of a detector."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "quick" / "detr_shapes.py"))
    cfg.model = small_config(detector, plan, num_stages=num_stages)
    return cfg


def run(tmp_path, model, plan: str, detector: str):
    """A finished training's folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(training_config(detector, plan), str(folder / "config.yaml"))
    optimizer = {"state": {i: {"exp_avg": torch.zeros_like(p)} for i, p in enumerate(model.parameters())}}
    torch.save({"model": model.state_dict(), "optimizer": optimizer}, folder / "model_final.pth")
    return folder


def test_there_and_back(tmp_path, capsys):
    model = lively(build(small_config("dab_detr", "sequential", num_stages=2)))
    ours, theirs, again = (str(tmp_path / f"{name}.pth") for name in ("ours", "theirs", "again"))
    torch.save({"model": model.state_dict()}, ours)
    assert main(["back", ours, theirs, "--layout", "dab_detr"]) == 0
    published = torch.load(theirs, weights_only=True)["model"]
    assert "transformer.decoder.bbox_embed.layers.0.weight" in published and "refpoint_embed.weight" in published
    assert main(["convert", theirs, again]) == 0
    converted = torch.load(again, weights_only=True)["model"]
    assert converted.keys() == model.state_dict().keys()
    assert all(torch.equal(v, converted[k]) for k, v in model.state_dict().items())
    out = capsys.readouterr().out
    assert "dab_detr: " in out and "6 left out" in out and "transformer.decoder.bbox_embed.layers.0.weight" in out


def test_convert_for_a_config_fits_the_heads(tmp_path, capsys):
    cfg = training_config("detr", "sequential", 2)
    cfg.model.num_classes = cfg.data.num_classes = 91
    theirs = build(cfg.model)
    cfg.model.num_classes = 80
    save_config(cfg, str(tmp_path / "config.yaml"))
    torch.save({"model": theirs.state_dict()}, tmp_path / "in.pth")
    arguments = ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]
    assert main([*arguments, "--config-file", str(tmp_path / "config.yaml")]) == 0
    assert "rows taken by the names of the classes" in capsys.readouterr().out
    converted = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    before, name = theirs.state_dict(), "decoder.stages.1.class_embed.weight"
    assert converted[name].shape[0] == 81
    assert torch.equal(converted[name][[0, 79]], before[name][[1, 90]])  # person and toothbrush by COCO's ids


@pytest.mark.parametrize("detector", [*DETECTORS, HYBRID])
def test_shrink_writes_a_model_and_the_config_that_runs_it(tmp_path, capsys, detector):
    whole = lively(build(small_config(detector, "dense_recurrent", num_stages=3))).eval()
    folder = run(tmp_path, whole, "dense_recurrent", detector)
    small = tmp_path / "small.pth"
    assert main(["shrink", str(folder / "model_final.pth"), str(small), "--times", "2"]) == 0
    out = capsys.readouterr().out
    assert "model_final.pth: 3 stages" in out and "small.pth: 1 stage" in out and "note:" not in out
    assert small.stat().st_size < (folder / "model_final.pth").stat().st_size / 2
    cfg = load_config(str(tmp_path / "small.yaml"))
    assert cfg.train.init_checkpoint == str(small) and cfg.train.output_dir.endswith("_looped")
    alone = build(cfg.model).eval()
    load_model_weights(alone, cfg.train.init_checkpoint, complete=True)
    whole.decoder.inference_plan = Plan.looped(3, times=2)
    batch = random_batch([(64, 96)], [0])
    for a, b in zip(whole.forward_stages(batch), alone.forward_stages(batch), strict=True):
        assert len(b.scores) == 2 and torch.equal(a.scores, b.scores) and torch.equal(a.boxes, b.boxes)


def test_shrink_warns_of_a_model_that_never_saw_its_own_outputs(tmp_path, capsys):
    model = build(small_config("detr", "dense", num_stages=3))
    folder = run(tmp_path, model, "dense", "detr")
    assert main(["shrink", str(folder / "model_final.pth"), str(tmp_path / "small.pth")]) == 0
    out = capsys.readouterr().out
    assert "note: only the plan dense_recurrent" in out and "runs it 3 times" in out


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_looped_config_is_that_of_a_later_stage(detector):
    cfg = looped_config(training_config(detector), times=4)
    assert cfg.model.decoder.stages.num_stages == 1 and cfg.model.decoder.inference_plan.times == 4
    assert cfg.model.decoder.stages.get("special_first") == (False if detector in SPECIAL_FIRST else None)


def test_which_plans_train_the_loop():
    assert trains_the_loop(Plan.dense_recurrent(6)) and trains_the_loop(Plan.dense_recurrent(3, recurrences=2))
    assert not any(trains_the_loop(p) for p in (Plan.sequential(6), Plan.selective(6), Plan.dense(6)))


def test_the_last_stage_becomes_the_first():
    state = {f"decoder.stages.{i}.a": torch.tensor(i) for i in range(11)} | {"b": torch.tensor(99)}
    assert last_stage_alone(state) == {"decoder.stages.0.a": torch.tensor(10), "b": torch.tensor(99)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "nowhere.pth", "out.pth"], "error: nowhere.pth: no such file"),
        (["convert", "odd.pth", "out.pth"], "unknown checkpoint layout: the nearest is"),
        (["convert", "ours.pth", "out.pth", "--layout", "detrr"], "unknown layout 'detrr'; one of sqr, detr,"),
        (["convert", "ours.pth", "no/folder/out.pth"], "cannot write no/folder/out.pth"),
        (["convert", "ours.pth", "out.pth", "--config-file", "quick/none"], "the model zoo has no config 'quick/none'"),
        (["back", "odd.pth", "out.pth", "--layout", "detr"], "unknown checkpoint layout"),
        (["back", "ours.pth", "out.pth", "--layout", "dab_detr"], "no name in the layout dab_detr"),
        (["shrink", "ours.pth", "out.pth"], "give a config with --config-file"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"some.thing": torch.zeros(1)}}, "odd.pth")
    torch.save({"model": {"decoder.stages.0.iof_tau": torch.zeros(1)}}, "ours.pth")
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and message in error
    assert not (tmp_path / "out.pth").exists()
