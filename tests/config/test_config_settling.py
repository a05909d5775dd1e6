"""Epochs, the learning rate of another batch and the number of detections: settled before the first iteration."""

import logging

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from engine_toys import TOY_CONFIG, run_toy
from sqr.config import learning_rate_advice, load_config, load_run_config, settled_max_iter
from tiny_coco import CONFIG, dataset_overrides, write_tiny_coco


def load(*overrides):
    return load_config(TOY_CONFIG, overrides)


def test_one_length_on_the_command_line_replaces_the_configs_other():
    cfg = load("train.max_epochs=3")
    assert (cfg.train.max_iter, cfg.train.max_epochs) == (None, 3)
    cfg.train.max_iter = settled_max_iter(cfg, num_images=13)
    assert cfg.train.max_iter == round(3 * 13 / 4) and cfg.lr_multiplier.max_iter == cfg.train.max_iter
    cfg = load("train.max_iter=7")
    assert settled_max_iter(cfg, num_images=13) == 7


def test_epochs_are_the_recipes_iterations():
    cfg = load("train.max_epochs=50", "dataloader.train.total_batch_size=32")
    assert settled_max_iter(cfg, num_images=118287) == 184823  # 50 epochs of COCO, as configs/deformable_detr/*_50ep


def test_a_run_in_epochs_trains_schedules_and_reloads(tmp_path):
    assert run_toy(tmp_path / "a", "train.max_epochs=2") == 0  # 13 images, batch 4: 6.5 iterations
    final = torch.load(tmp_path / "a" / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5 and final["trainer"]["samples_seen"] == 24
    log = (tmp_path / "a" / "log.txt").read_text()
    assert "6 iterations of 4 images: 1.846 epochs of the 13 training images, 3.25 iterations each" in log
    assert run_toy(tmp_path / "b", config=str(tmp_path / "a" / "config.yaml")) == 0
    again = torch.load(tmp_path / "b" / "model_final.pth", weights_only=True)
    assert all(torch.equal(again["model"][k], v) for k, v in final["model"].items())


@pytest.mark.parametrize(
    ("overrides", "suggestion"),
    [
        ([], ""),
        (["dataloader.train.total_batch_size=2"], "Suggested: optimizer.lr=0.0001 (linear scaling)"),
        (["dataloader.train.total_batch_size=16"], "Suggested: optimizer.lr=0.0008 (linear scaling)"),
        (["dataloader.train.total_batch_size=2", "optimizer.lr=1e-4"], ""),
        (["train.accumulation_steps=2"], ""),  # the batch of a step is the recipe's
    ],
)
def test_advice_for_another_batch(overrides, suggestion):
    advice = learning_rate_advice(load(*overrides), TOY_CONFIG)
    assert suggestion in advice and bool(advice) == bool(suggestion)


def test_the_advice_is_a_warning_of_the_run(tmp_path):
    assert run_toy(tmp_path, "dataloader.train.total_batch_size=2", "train.max_iter=1") == 0
    lines = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "Suggested: " in line]
    assert len(lines) == 1 and logging.getLevelName(logging.WARNING) in lines[0]
    assert "The batch is 2 images, the recipe's is 4" in lines[0]


def perfect_ap(cfg) -> float:
    """AP of detections that are the objects, with the config's own evaluator."""
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.reset()
    for record in instantiate(cfg.dataloader.test.dataset):
        instances = Instances((record["height"], record["width"]))
        x, y, w, h = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32).unbind(-1)
        instances.pred_boxes = Boxes(torch.stack((x, y, x + w, y + h), dim=-1))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        instances.scores = torch.linspace(1, 0.5, len(instances))
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]["AP"]


def test_crowded_images_are_evaluated_with_as_many_detections_as_they_need(tmp_path, caplog):
    folder = write_tiny_coco(tmp_path / "data", counts=(260, 2))
    overrides = [*dataset_overrides(folder), f"train.output_dir={tmp_path}", "train.device=cpu"]
    caplog.set_level(logging.INFO)
    cfg = load_run_config(CONFIG, overrides)
    assert cfg.data.max_dets_per_image == cfg.model.postprocessor.topk == 400
    assert "An image has up to 260 objects: AP counts 400 detections of it (COCO: 100)" in caplog.text
    assert "model.postprocessor.topk is raised from 100 to 400" in caplog.text
    assert perfect_ap(cfg) > 99
    assert perfect_ap(load_run_config(CONFIG, [*overrides, "data.max_dets_per_image=100"])) < 90
    cfg = load_run_config(CONFIG, [*overrides, "model.postprocessor.topk=700"])
    assert (cfg.data.max_dets_per_image, cfg.model.postprocessor.topk) == (400, 700)
    few = write_tiny_coco(tmp_path / "few", counts=(100,))
    cfg = load_run_config(CONFIG, [*dataset_overrides(few), "train.device=cpu"])
    assert cfg.data.max_dets_per_image is None and cfg.model.postprocessor.topk == 100
