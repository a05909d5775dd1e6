"""Predicted validation images with their stages reach TensorBoard."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from engine_toys import ToyDetector, run_toy
from sqr.evaluation.validation_pictures import ValidationPictures, best_tracks
from sqr.structures import ImagePredictions
from tiny_coco import CONFIG, SMALL, dataset_overrides, write_tiny_coco


def test_best_queries_are_followed_and_judged():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 50, 50], [0, 0, 10, 10.0]])
    scores = torch.zeros(2, 4, 2)
    scores[1, :, 0] = torch.tensor([0.9, 0.8, 0.3, 0.0])
    scores[1, 3, 1] = 0.7
    scores[0, :, 0] = 0.1
    stages = torch.stack([boxes + 30, boxes])
    objects, labels = np.array([[0, 0, 10, 10.0]]), np.array([0])
    tracks = best_tracks(ImagePredictions(scores, stages, (64, 64)), objects, labels, count=3)
    assert [t.query for t in tracks] == [0, 3, 2]  # query 1 covers query 0
    assert tracks[0].verdict == ["false", "true"] and tracks[0].iou[1] == pytest.approx(1.0)
    assert tracks[1].verdict == ["false", "false"]  # the right box, the wrong class
    assert tracks[0].score.tolist() == pytest.approx([0.1, 0.9]) and tracks[1].label.tolist() == [0, 1]


def test_each_evaluation_puts_pictures_into_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = write_tiny_coco(tmp_path / "data", counts=(0, 2, 1, 1))
    options = [*dataset_overrides(folder), *SMALL, "train.eval_images=2", "train.max_iter=1"]
    assert run_toy(tmp_path / "out", *options, config=CONFIG) == 0
    events = EventAccumulator(str(tmp_path / "out"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["validation/2", "validation/3"]  # image 1 has no object
    pictures = events.Images("validation/2")
    assert [p.step for p in pictures] == [0] and pictures[0].width > 3 * pictures[0].height
    assert {"total_loss", "bbox/AP", "lr", "grad_norm"} <= set(events.Tags()["scalars"])


def test_nothing_is_drawn_without_stages_or_where_none_are_asked_for():
    cfg = OmegaConf.create({"dataloader": {"test": {}, "evaluator": None}})
    assert ValidationPictures(cfg, count=2).draw(ToyDetector()) == {}
    assert ValidationPictures(cfg, count=0).draw(object()) == {}
