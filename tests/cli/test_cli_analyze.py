"""The command from end to end: a model, stored predictions, two runs compared, and how errors read."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sqr.cli import analyze as command
from sqr.evaluation import compare
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.storage import save_predictions, to_coco_results
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored(tmp_path):
    """Two directories of predictions and their annotation file."""
    data, rng = synthetic_dataset(num_images=8, num_classes=3, seed=4)
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(data))
    for name in ("base", "sqr"):
        made = synthetic_predictions(data, rng, num_stages=3, num_queries=30)
        made.source = name
        save_predictions(made, tmp_path / name / "predictions", {"json_file": str(annotations)})
    return tmp_path


def test_from_stored_predictions(stored, capsys):
    out = stored / "out"
    assert command.main(["--from-predictions", str(stored / "base"), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| stage 3 " in text
    assert "TP fading" in text
    assert str(out / "report.html") in text
    summary = json.loads((out / "stage_analysis.json").read_text())
    rows = list(csv.DictReader((out / "stage_analysis.csv").open()))
    last = next(r for r in rows if (r["section"], r["item"], r["metric"]) == ("ap", "stage 3", "AP"))
    assert float(last["value"]) == summary["stages"][-1]["AP"]
    assert {p.name for p in (out / "figures").glob("*.png")} == {
        "ap_by_stage.png", "best_stage.png", "by_stage.png", "confusion.png", "f1.png", "precision_recall.png",
        "rates.png", "trajectories.png",
    }  # fmt: skip


def test_from_coco_result_files(stored, capsys):
    data = json.loads((stored / "instances.json").read_text())
    made = synthetic_predictions(data, np.random.default_rng(0), num_stages=2, num_queries=20)
    paths = []
    for s, table in enumerate(made.detections):
        paths.append(stored / f"stage{s}.json")
        rows = to_coco_results(table, made)
        for row in rows:
            del row["query_id"]
        paths[-1].write_text(json.dumps(rows))
    arguments = ["--from-predictions", *map(str, paths), "--output", str(stored / "out")]
    assert command.main(arguments) == 1
    assert "give --annotations FILE" in capsys.readouterr().err
    assert command.main([*arguments, "--annotations", str(stored / "instances.json")]) == 0
    assert "No query ids" in capsys.readouterr().out
    assert (stored / "out" / "report.html").exists()


def test_comparison(stored, capsys):
    arguments = [
        "compare",
        str(stored / "base"),
        str(stored / "sqr"),
        "--output",
        str(stored / "out"),
        "--resamples",
        "20",
    ]
    assert command.main(arguments) == 0
    outcome = json.loads((stored / "out" / "comparison.json").read_text())
    assert outcome["names"] == ["base", "sqr"]
    rows = {r["metric"]: r for r in outcome["rows"]}
    assert list(rows)[:4] == ["AP stage 1", "AP stage 2", "AP stage 3", "AP oracle"]
    last = rows["AP stage 3"]
    assert last["difference"] == pytest.approx(last["values"][1] - last["values"][0])
    for value, (low, high) in zip(last["values"], last["intervals"], strict=True):
        assert low < value < high
    assert (stored / "out" / "comparison.md").read_text() in capsys.readouterr().out + "\n"
    assert (stored / "out" / "report.html").exists()


def test_the_bootstrap_is_that_of_its_seed(stored):
    results = [command.load_and_analyze([str(stored / name)])[0] for name in ("base", "sqr")]
    one, again, other = (compare(*results, resamples=10, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert one["rows"][0]["values"] == other["rows"][0]["values"]
    assert one["rows"][0]["intervals"] != other["rows"][0]["intervals"]


def test_a_model_compared_with_itself_differs_by_nothing(stored):
    arguments = ["compare", str(stored / "base"), str(stored / "base"), "--names", "a", "b", "--no-report"]
    assert command.main([*arguments, "--output", str(stored / "out"), "--resamples", "5"]) == 0
    for row in json.loads((stored / "out" / "comparison.json").read_text())["rows"]:
        assert row["difference"] == 0
        assert row["difference_interval"] == [0, 0]


def test_benchmark(capsys):
    arguments = ["benchmark", "--images", "20", "--stages", "2", "--queries", "30", "--classes", "5"]
    assert command.main(arguments) == 0
    assert "20 images x 2 stages x 30 queries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x"], "give either --run or --config-file"),
        (["--config-file", "a", "--from-predictions", "b", "--output", "x"], "give either --run or --config-file"),
        (["--from-predictions", "/nowhere", "--annotations", "/no.json", "--output", "x"], "/no.json does not exist"),
        (["compare", "/nowhere", "/nowhere", "--output", "x", "--annotations", "/no.json"], "/no.json does not exist"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert command.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def quick_model(tmp_path):
    """Arguments that run a quick model with random weights on six images, and its annotation file."""
    from detectron2.config import LazyConfig, instantiate

    data, _ = synthetic_dataset(num_images=6, num_classes=3, seed=6)
    for image in data["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(data))
    config = str(ROOT / "configs" / "quick" / "deformable_detr_shapes.py")
    cfg = LazyConfig.load(config)
    cfg.model.num_classes = 3
    torch.manual_seed(0)
    torch.save({"model": instantiate(cfg.model).state_dict()}, tmp_path / "model.pth")
    overrides = [
        f"train.init_checkpoint={tmp_path / 'model.pth'}",
        *(f"data.{split}.{key}" for split in ("train", "val")
          for key in ("name=null", f"annotations={annotations}", f"images={tmp_path}")),
        "dataloader.test.num_workers=0", "dataloader.test.batch_size=2", "train.device=cpu",
    ]  # fmt: skip
    return config, overrides, annotations


def test_from_a_config_and_a_checkpoint(quick_model, tmp_path, monkeypatch, capsys):
    config, overrides, annotations = quick_model
    tool = str(ROOT / "projects" / "SQR" / "tools" / "analyze_stages.py")
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", [tool, "--config-file", config, overrides[0], "--output", str(out), *overrides[1:]]
    )
    with pytest.raises(SystemExit) as leave:
        runpy.run_path(tool, run_name="__main__")
    assert leave.value.code == 0, capsys.readouterr().err
    summary = json.loads((out / "stage_analysis.json").read_text())
    assert len(summary["stages"]) == 6
    assert summary["images"] == 6
    assert "data:image/jpeg" in (out / "report.html").read_text()
    again, _ = command.load_and_analyze([str(out)], annotations=str(annotations))
    assert again.summary() == summary


def test_ctrl_c_keeps_and_reports_what_was_predicted(quick_model, tmp_path, monkeypatch, capsys):
    from sqr.evaluation.evaluator import StageInference

    config, overrides, annotations = quick_model
    calls, forward = [], StageInference.forward

    def interrupted(self, batched_inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, batched_inputs)

    monkeypatch.setattr(StageInference, "forward", interrupted)
    out = tmp_path / "out"
    assert command.main(["--config-file", config, "--output", str(out), *overrides]) == 130
    summary = json.loads((out / "stage_analysis.json").read_text())
    assert (summary["images"], summary["complete"]) == (4, False)
    assert "Partial" in capsys.readouterr().out
    result, _ = command.load_and_analyze([str(out)], annotations=str(annotations), partial=True)
    assert result.summary() == summary
    assert len(load_coco(str(annotations)).imgs) == 6


def test_stage_inference_returns_what_the_detector_returns(quick_model):
    from detectron2.config import LazyConfig, instantiate

    from sqr.evaluation import StageInference

    cfg = LazyConfig.load(quick_model[0])
    cfg.model.num_classes = 3
    model = instantiate(cfg.model).eval()
    inputs = [{"image": torch.zeros(3, 64, 96) + 40 * n, "height": 128, "width": 192} for n in (1, 2)]
    with torch.no_grad():
        ordinary, staged = model(inputs), StageInference(model)(inputs)
    for a, b in zip(ordinary, staged, strict=True):
        for name in ("scores", "pred_classes"):
            assert torch.equal(a["instances"].get(name), b["instances"].get(name))
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert len(b["stage_instances"]) == 6
