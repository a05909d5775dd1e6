"""The trained weights that come with the package, and the ways of naming them."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from omegaconf import OmegaConf

from helpers import ROOT
from sqr import catalog as zoo
from sqr import engine, model_zoo
from sqr.checkpoint.loading import load_model_weights
from sqr.config import load_config, save_config
from sqr.errors import UsageError, UserError
from sqr.predictor import Predictor

NAME = "quick/sqr_deformable_detr_shapes"
TRAINED = f"zoo://quick/sqr_deformable_detr_cells, zoo://{NAME}"
MEASURED = json.loads((ROOT / "projects/SQR/sqr/model_zoo/zoo.json").read_text())["measured"]


def test_every_listed_checkpoint_is_there_small_and_measured():
    rows = [row for row in MEASURED if "checkpoint" in row]
    assert {row["config"] for row in rows} == set(model_zoo.checkpoint_names()) and NAME in model_zoo.checkpoint_names()
    for row in rows:
        path = ROOT / "projects/SQR/sqr/model_zoo" / row["checkpoint"]
        assert path.stat().st_size < 9e6
        weights = torch.load(path, weights_only=True)["model"]
        assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float16}
        assert f"--config-file {row['config']} " in row["command"] and "init_checkpoint=zoo" in row["command"]


def test_cells_are_found_in_a_photograph():
    """The boxes that BCCD's annotators drew into this photograph; three red cells of 15 may be missed."""
    pytest.importorskip("timm", reason="the backbone is timm's")
    annotated = {
        "RBC": [
            [15, 84, 70, 132],
            [6, 17.5, 54.5, 66.5],
            [12.5, 176, 68.5, 226],
            [54.5, 159, 110.5, 209],
            [79, 120, 136.5, 180.5],
            [124, 173, 172.5, 220.5],
            [175, 146, 226.5, 191],
            [164.5, 29, 225.5, 84],
            [85, 0.5, 150, 50.5],
            [84, 55, 138.5, 101.5],
            [101.5, 76, 146.5, 115],
            [194, 0.5, 269, 38],
            [262, 110.5, 318.5, 150.5],
            [235, 61, 276.5, 102.5],
            [255.5, 47, 303, 100.5],
        ],
        "WBC": [[236, 145, 320, 237]],
        "Platelets": [
            [206.5, 115, 241, 151.5],
            [34, 56.5, 56.5, 79],
            [56, 12.5, 82, 32]],
    }  # fmt: skip
    predictor = Predictor.from_zoo("quick/sqr_deformable_detr_cells", device="cpu")
    found = predictor(ROOT / "docs/images/cells.jpg")
    for label, (name, boxes) in enumerate(annotated.items()):
        overlaps = pairwise_iou(Boxes(torch.tensor(boxes)), found.pred_boxes[found.pred_classes == label])
        assert int((overlaps.max(dim=1).values > 0.5).sum()) >= len(boxes) - (3 if name == "RBC" else 0), name


def test_trained_model_of_the_zoo():
    model = model_zoo.get(NAME, trained=True, device="cpu")
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert model_zoo.get(NAME, device="cpu").num_classes == 6  # the data's, without generating the data


@pytest.mark.parametrize("config", [NAME, f"{NAME}.py", str(ROOT / "configs" / f"{NAME}.py")])
def test_zoo_is_the_configs_own_checkpoint(config):
    cfg = load_config(config, ["train.init_checkpoint=zoo"])
    assert cfg.train.init_checkpoint == f"zoo://{NAME}"  # which a saved config still understands


def test_other_configs_may_take_it_too():
    cfg = load_config("quick/deformable_detr_shapes", [f"train.init_checkpoint=zoo://{NAME}"])
    cfg.data.num_classes = 6
    model = engine.build_model(OmegaConf.merge(cfg, {"train": {"device": "cpu"}}))
    assert not load_model_weights(model, cfg.train.init_checkpoint, complete=True).missing


def test_names_without_a_checkpoint_are_errors_that_list_those_with_one(tmp_path):
    with pytest.raises(UsageError, match=f"quick/detr_shapes has no trained checkpoint.*there are: {TRAINED}$"):
        load_config("quick/detr_shapes", ["train.init_checkpoint=zoo"])
    save_config(load_config(NAME), str(tmp_path / "config.yaml"))
    with pytest.raises(UsageError, match=f"config.yaml has no trained checkpoint.*there are: {TRAINED}$"):
        load_config(str(tmp_path / "config.yaml"), ["train.init_checkpoint=zoo"])
    for source in ("zoo://quick/detr_shapes", "zoo://quick/nothing"):
        with pytest.raises(UserError, match=f"^train.init_checkpoint={source}: the model zoo has no"):
            load_model_weights(torch.nn.Linear(1, 1), source)


def test_the_checkpoint_travels_with_the_package():
    assert zoo.CHECKPOINTS[NAME].startswith("checkpoints/")
    assert "checkpoints/*.pth" in (ROOT / "setup.py").read_text()
