"""``tools/export.py``: files that it checks itself, and its errors."""

from __future__ import annotations

import re

import pytest
import torch

from export_models import export_model
from helpers import ROOT
from sqr import Predictor
from sqr.cli import export
from sqr.cli.export import main
from sqr.cli.options import export_parser
from sqr.data.shapes import CLASSES
from sqr.export import OUTPUTS, DeployedDetector, largest_difference
from sqr.export.verification import SIZES

CONFIG = """
from detectron2.config import LazyConfig

from export_models import export_config

base = LazyConfig.load("{base}")
data, dataloader, lr_multiplier, optimizer, train = (
    base[k] for k in ("data", "dataloader", "lr_multiplier", "optimizer", "train")
)
del base
model = export_config("{detector}")
data.num_classes = 5
data.val.name = data.train.name = "nowhere"
"""


@pytest.fixture
def model_options(tmp_path):
    (tmp_path / "tiny.py").write_text(
        CONFIG.format(base=ROOT / "configs/quick/detr_shapes.py", detector="deformable_plain")
    )
    torch.save({"model": export_model("deformable_plain").state_dict()}, tmp_path / "tiny.pth")
    return ["--config-file", str(tmp_path / "tiny.py"), "--weights", str(tmp_path / "tiny.pth")]


def test_a_program_is_written_and_checked(model_options, tmp_path, capsys):
    path = tmp_path / "new" / "model.pt2"
    static = ["--static", "--batch", "1", "--size", "64", "96"]
    assert main(["--output", str(path), *model_options, "--reference", "--outputs", "raw", *static]) == 0
    said = capsys.readouterr().out
    assert "tracing 1 x 3 x 64 x 96, batch 1, 64 x 96;" in said
    assert f"{path}: torch.export program, batch 1, 64 x 96, outputs logits, boxes" in said
    difference = re.search(r"run by PyTorch on 1 x 3 x 64 x 96: differs from the model by at most (\S+)", said)
    assert float(difference[1]) < 1e-4
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert any("grid_sampler" in t for t in targets) and not any("sqr." in t for t in targets)


def test_the_help_lists_every_kind_of_outputs():
    (action,) = (a for a in export_parser()._actions if a.dest == "outputs")
    assert action.choices == tuple(OUTPUTS)


def test_a_file_that_differs_is_an_error(model_options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sqr.cli.export.largest_difference", lambda *a, **k: float("nan"))
    options = [
        "--output",
        str(tmp_path / "model.pt2"),
        *model_options,
        "--static",
        "--batch",
        "1",
        "--size",
        "64",
        "96",
    ]
    assert main(options) == 1
    assert "differs by more than 0.001 from the model" in capsys.readouterr().err


def test_what_a_file_says_of_its_model():
    name = "quick/sqr_deformable_detr_shapes"
    said = export._metadata(Predictor.from_zoo(name, device="cpu"), name)
    assert said["config"] == name and said["class_names"][0] == CLASSES[0] and said["input_format"] == "RGB"
    assert (said["min_size"], said["max_size"]) == (128, 128) and len(said["pixel_mean"]) == len(said["pixel_std"]) == 3


@pytest.mark.parametrize("outputs", ["detections", "raw"])
def test_the_check_sees_another_model(outputs):
    models = [DeployedDetector(model=export_model("deformable_plain"), outputs=outputs) for _ in range(2)]
    assert largest_difference(*models) == 0
    with torch.no_grad():
        models[1].model.decoder.stages[0].bbox_embed.layers[-1].bias += 0.05
    assert largest_difference(*models) > 1e-3


def test_equal_scores_may_change_places():
    first = (torch.tensor([[0.9, 0.9, 0.1]]), torch.tensor([[1, 2, 0]]), torch.rand(1, 3, 4))
    second = tuple(x[:, [1, 0, 2]] for x in first)
    sizes = [SIZES[0]]
    assert largest_difference(lambda *x: first, lambda *x: second, sizes) == 0
    other = (first[0], torch.tensor([[1, 1, 0]]), first[2])
    assert largest_difference(lambda *x: first, lambda *x: other, sizes) == float("inf")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--output", "model.pb"], 2, "--output model.pb: .onnx writes ONNX, .pt2 a torch.export program"),
        (["--output", "a.onnx", "--device", "cuda"], 2, "--device cuda: ONNX is written on the CPU"),
        (["--output", "a.pt2", "--config-file", "quick/detr_shapes"], 2, "quick/detr_shapes has no trained checkpoint"),
        (["--output", "a.pt2", "--run", "nowhere"], 1, "nowhere is not the output folder of a training"),
    ],
)
def test_errors_are_one_line(options, code, text, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(options) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and error.count("\n") == 1


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert main(["--output", "a.onnx"]) == 1
    assert capsys.readouterr().err == "error: ONNX needs onnxscript: pip install 'detectron2-sqr[export]'\n"
