"""Matching: optimal, group by group, own image only, one transfer, and errors that name the culprit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou

from helpers import random_targets
from memory_tools import CountOperators
from sqr import matcher as matcher_module
from sqr.benchmarks.live_memory import LiveMemory
from sqr.boxes import corners_and_area, cxcywh_to_xyxy, generalized_iou
from sqr.classification import FocalClassification, SoftmaxClassification
from sqr.matcher import HungarianMatcher, MatchingProblem
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
    """``(T, 4)`` and ``(G, Q, 4)`` cxcywh -> ``(G, T, Q)``."""
    return generalized_iou(corners_and_area(boxes[:, None]), corners_and_area(targets[:, None]))


def test_pairwise_giou_is_torchvisions():
    targets, boxes = random_targets([4]).boxes, predictions().boxes[0]
    ours = pairwise_giou(targets, boxes)
    theirs = torch.stack([generalized_box_iou(cxcywh_to_xyxy(targets), cxcywh_to_xyxy(b)) for b in boxes])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    nothing = torch.zeros(1, 4)
    assert torch.isfinite(pairwise_giou(nothing, nothing[None])).all()


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [3, 0]])
def test_images_without_objects_are_ordinary(counts):
    (match,) = matcher()([problem(predictions(), random_targets(counts))])
    assert match.shape == (3, sum(counts))


def test_one_host_copy_for_all_problems(monkeypatch):
    targets = random_targets([3, 2])
    problems = [problem(predictions(), targets), problem(predictions(q=40), targets.class_agnostic())]
    copies = []
    to_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or to_host(self))
    with CountOperators() as counter:
        matches = matcher()(problems)
    assert [m.shape for m in matches] == [(3, 5), (3, 5)]
    assert len(copies) == 1 and counter.synchronising == {}


CLASSIFICATIONS = [FocalClassification(), SoftmaxClassification()]


@pytest.mark.parametrize("classification", CLASSIFICATIONS, ids=["focal", "softmax"])
@pytest.mark.parametrize(("at_once", "pieces"), [(1, 3 * 6 * 2 + 40 * 2), (7, 3 * 3 + 3 * 2 + 20 + 14), (37, 10)])
def test_costs_are_the_same_in_pieces(classification, at_once, pieces, monkeypatch):
    """Part of a group at a time, a group at a time, and (37) several groups of one image."""
    targets = random_targets([3, 0, 2])
    problems = [problem(predictions(b=3), targets), problem(predictions(b=3, g=1, q=40), targets.class_agnostic())]
    whole = HungarianMatcher(classification=classification)
    expected, matches = whole._costs(problems), whole(problems)
    calls = []
    giou = matcher_module.generalized_iou
    monkeypatch.setattr(matcher_module, "generalized_iou", lambda *args: calls.append(1) or giou(*args))
    monkeypatch.setattr(matcher_module, "_PAIRS_AT_ONCE", {"cpu": at_once, "cuda": at_once})
    torch.testing.assert_close(whole._costs(problems), expected, rtol=1e-5, atol=1e-6)
    assert len(calls) == pieces
    assert all(torch.equal(a, b) for a, b in zip(whole(problems), matches, strict=True))


@pytest.mark.parametrize("classification", CLASSIFICATIONS, ids=["focal", "softmax"])
@pytest.mark.parametrize(("groups", "queries"), [(32, 150), (1, 4800)], ids=["recollected", "proposals"])
def test_a_crowd_takes_no_more_than_its_costs_and_a_few_pieces(classification, groups, queries, monkeypatch):
    crowd = random_targets([120, 1])
    several = [problem(predictions(b=2, g=groups, q=queries), crowd)]
    peaks = {}
    for at_once in (1 << 15, 1 << 30):
        monkeypatch.setattr(matcher_module, "_PAIRS_AT_ONCE", {"cpu": at_once, "cuda": at_once})
        with LiveMemory(lambda tensor: tensor.nbytes) as peak:
            costs = HungarianMatcher(classification=classification)._costs(several)
        peaks[at_once] = peak.peak - costs.nbytes
    assert peaks[1 << 15] < 12 * 4 * (1 << 15)  # a dozen float32 tensors of a piece
    assert peaks[1 << 30] > 6 * costs.nbytes > 10 * peaks[1 << 15]  # in one piece


def test_as_many_objects_as_queries_take_all_queries():
    (match,) = matcher()([problem(predictions(), random_targets([6, 0]))])
    assert match.sort(dim=1).values.tolist() == [list(range(6))] * 3


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
