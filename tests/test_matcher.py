"""Matching: optimal, group by group, own image only, one transfer, and errors that name the culprit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import generalized_box_iou

from helpers import random_targets
from sqr.boxes import cxcywh_to_xyxy
from sqr.classification import FocalClassification
from sqr.matcher import HungarianMatcher, MatchingProblem, generalized_iou
from sqr.structures import StagePrediction


def predictions(b=2, g=3, q=6, k=5, seed=0) -> StagePrediction:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, g, q, k, generator=generator)
    boxes = torch.rand(b, g, q, 4, generator=generator) * 0.5 + 0.2
    return StagePrediction(logits, boxes)


def problem(prediction, targets) -> MatchingProblem:
    return MatchingProblem(prediction, targets, [f"group {i}" for i in range(prediction.logits.shape[1])])


def matcher() -> HungarianMatcher:
    return HungarianMatcher(classification=FocalClassification())


def textbook_cost(logits, boxes, labels, target_boxes):
    """The official matcher's formula for one group and one image: (Q, T)."""
    p = logits.sigmoid()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    giou = generalized_box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
    return 2 * (positive - negative)[:, labels] + 5 * torch.cdist(boxes, target_boxes, p=1) - 2 * giou


def test_every_group_gets_the_cheapest_assignment_of_its_own_image():
    prediction, targets = predictions(), random_targets([3, 2])
    (match,) = matcher()([problem(prediction, targets)])
    assert match.shape == (3, 5)
    for group in range(3):
        for image, objects in enumerate([slice(0, 3), slice(3, 5)]):
            cost = textbook_cost(
                prediction.logits[image, group],
                prediction.boxes[image, group],
                targets.labels[objects],
                targets.boxes[objects],
            ).numpy()
            chosen = match[group, objects].tolist()
            assert len(set(chosen)) == len(chosen)
            best = min(
                sum(cost[q, t] for t, q in enumerate(queries))
                for queries in itertools.permutations(range(6), cost.shape[1])
            )
            np.testing.assert_allclose(sum(cost[q, t] for t, q in enumerate(chosen)), best, rtol=1e-5)


def test_groups_do_not_compete():
    prediction, targets = predictions(g=4), random_targets([3, 2])
    (together,) = matcher()([problem(prediction, targets)])
    for group in range(4):
        alone = StagePrediction(prediction.logits[:, group : group + 1], prediction.boxes[:, group : group + 1])
        assert torch.equal(matcher()([problem(alone, targets)])[0][0], together[group])


def pairwise_giou(targets, boxes):
    """``(T, 4)`` and ``(G, Q, 4)`` xyxy -> ``(G, T, Q)``, from the planes that the matcher works on."""
    planes = []
    for x in (boxes[:, None], targets[:, None]):
        x0, y0, x1, y1 = x.unbind(-1)
        planes.append((x0, y0, x1, y1, (x1 - x0) * (y1 - y0)))
    return generalized_iou(*planes)


def test_pairwise_giou_is_torchvisions():
    targets = cxcywh_to_xyxy(random_targets([4]).boxes)
    boxes = cxcywh_to_xyxy(predictions().boxes[0])
    ours = pairwise_giou(targets, boxes)
    theirs = torch.stack([generalized_box_iou(targets, b) for b in boxes])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    nothing = torch.zeros(1, 4)
    assert torch.isfinite(pairwise_giou(nothing, nothing[None])).all()


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [3, 0]])
def test_images_without_objects_are_ordinary(counts):
    (match,) = matcher()([problem(predictions(), random_targets(counts))])
    assert match.shape == (3, sum(counts))


class CountHostCopies(TorchDispatchMode):
    """Counts what would synchronise a device: copies to the host and scalars read back."""

    def __init__(self):
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.scalars += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_one_host_copy_for_all_problems(monkeypatch):
    targets = random_targets([3, 2])
    problems = [problem(predictions(), targets), problem(predictions(q=40), targets.class_agnostic())]
    copies = []
    to_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or to_host(self))
    with CountHostCopies() as counter:
        matches = matcher()(problems)
    assert [m.shape for m in matches] == [(3, 5), (3, 5)]
    assert len(copies) == 1 and counter.scalars == 0


def test_more_objects_than_queries_says_what_to_raise():
    with pytest.raises(
        ValueError, match=r"image 1 has 7 objects, but a group has only 6 queries.*raise num_queries to"
    ):
        matcher()([problem(predictions(), random_targets([2, 7]))])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_names_group_and_image(value):
    prediction = predictions()
    prediction.boxes[1, 2, 4] = value
    targets = random_targets([3, 2])
    targets.image_ids = ("left.jpg", "right.jpg")
    with pytest.raises(FloatingPointError, match=r"image right.jpg .* group 2, query 4 .*'left.jpg', 'right.jpg'"):
        matcher()([problem(prediction, targets)])
