"""The set loss: sums over groups and steps, one shared normaliser, empty images, options."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from helpers import random_targets
from sqr import classification
from sqr.benchmarks.live_memory import LiveMemory
from sqr.boxes import corners_and_area, generalized_iou, xyxy_to_cxcywh
from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion, average_over_processes
from sqr.matcher import HungarianMatcher
from sqr.recollection import Plan
from sqr.structures import StagePrediction
from test_matcher import predictions


def criterion(**options) -> SetCriterion:
    focal = FocalClassification()
    return SetCriterion(matcher=HungarianMatcher(classification=focal), classification=focal, **options)


def steps(plan: Plan, **shape) -> list[StagePrediction]:
    return [predictions(g=groups, seed=i, **shape) for i, groups in enumerate(plan.groups)]


def single(step: StagePrediction, group: int) -> StagePrediction:
    return StagePrediction(step.logits[:, group : group + 1], step.boxes[:, group : group + 1])


def test_a_steps_loss_is_the_sum_of_its_groups_alone():
    plan, targets = Plan.selective(4), random_targets([3, 2])
    outputs = steps(plan)
    losses = criterion()(outputs, plan, targets)
    assert len(losses) == 3 * plan.num_steps
    one = Plan.sequential(1)
    for number, step in enumerate(outputs, start=1):
        alone = [criterion()([single(step, g)], one, targets) for g in range(plan.groups[number - 1])]
        for kind in ("class", "l1", "giou"):
            expected = sum(a[f"loss_{kind}/stage1"] for a in alone)
            torch.testing.assert_close(losses[f"loss_{kind}/stage{number}"], expected, rtol=1e-5, atol=1e-6)


def giou_loss(boxes, targets):
    return 1 - generalized_iou(*(corners_and_area(xyxy_to_cxcywh(x)) for x in (boxes, targets)))


def test_giou_loss_is_torchvisions_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    corners[0, 0] = corners[1, 0]  # the same box
    corners[0, 1] = corners[0, 1, [0, 1, 0, 1]]  # one without extent
    boxes, targets = corners
    found = []
    for loss in (giou_loss, partial(generalized_box_iou_loss, reduction="none")):
        leaf = boxes.clone().requires_grad_()
        values = loss(leaf, targets)
        found.append((values, torch.autograd.grad(values.sum(), leaf)[0]))
    assert (found[0][0] > 1).any() and (found[0][0] < 1).any()  # some overlap, some do not
    torch.testing.assert_close(*found, rtol=1e-5, atol=3e-5)


def test_normaliser_is_the_number_of_objects_and_at_least_one():
    plan = Plan.sequential(1)
    outputs = steps(plan)
    two = criterion()(outputs, plan, random_targets([1, 1]))
    assert two["loss_l1/stage1"] > 0
    empty = criterion()(outputs, plan, random_targets([0, 0]))
    assert empty["loss_l1/stage1"] == 0 and empty["loss_giou/stage1"] == 0
    p = outputs[0].logits.sigmoid()
    all_negative = (2 * 0.75 * p**2 * -(1 - p).log()).sum()
    torch.testing.assert_close(empty["loss_class/stage1"], all_negative, rtol=1e-4, atol=0)


def test_the_normaliser_is_averaged_over_processes(monkeypatch):
    """This process has 5 objects, the other one 2; or none and one. At least 1, once repetitions are counted."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for ours, theirs, expected in ((5, 2, 3.5), (0, 1, 0.5)):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda total, n=theirs: total.add_(n))
        assert average_over_processes(ours, torch.device("cpu")) == expected
    plan, outputs, targets = Plan.sequential(1), steps(Plan.sequential(1)), random_targets([3, 2])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(15))  # the average is 10
    halved = criterion()(outputs, plan, targets)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.fill_(1))  # half an object
    few = criterion(auxiliary_repeats=6)(outputs, plan, random_targets([1, 0]), auxiliary=steps(plan, q=8))
    monkeypatch.undo()
    many = criterion(auxiliary_repeats=6)(outputs, plan, random_targets([1, 0]), auxiliary=steps(plan, q=8))
    torch.testing.assert_close(few["loss_l1/stage1"], many["loss_l1/stage1"])
    torch.testing.assert_close(few["loss_l1/auxiliary_stage1"], 2 * many["loss_l1/auxiliary_stage1"])
    for key, value in criterion()(outputs, plan, targets).items():
        torch.testing.assert_close(halved[key], value / 2)


def test_doubling_a_batch_keeps_the_loss():
    plan, outputs, targets = Plan.sequential(2), steps(Plan.sequential(2)), random_targets([3, 2])
    twice = [StagePrediction(torch.cat([s.logits] * 2), torch.cat([s.boxes] * 2)) for s in outputs]
    both = type(targets).from_lists(targets.class_ids * 2, list(targets.boxes.split(targets.counts)) * 2)
    once, double = criterion()(outputs, plan, targets), criterion()(twice, plan, both)
    for key, value in once.items():
        torch.testing.assert_close(double[key], value, rtol=1e-5, atol=1e-6)


def test_mean_over_groups_and_weights_of_steps():
    plan, targets = Plan.selective(3), random_targets([3, 2])
    outputs = steps(plan)
    plain = criterion()(outputs, plan, targets)
    mean = criterion(group_reduction="mean")(outputs, plan, targets)
    broken = [StagePrediction(outputs[0].logits * float("nan"), outputs[0].boxes), *outputs[1:]]
    weighted = criterion()(broken, plan.weighted([0, 1, 0.5]), targets)  # a step of weight 0 is not even matched
    for kind in ("class", "l1", "giou"):
        for step, groups in enumerate(plan.groups, start=1):
            key = f"loss_{kind}/stage{step}"
            torch.testing.assert_close(mean[key], plain[key] / groups)
        assert f"loss_{kind}/stage1" not in weighted
        torch.testing.assert_close(weighted[f"loss_{kind}/stage3"], plain[f"loss_{kind}/stage3"] / 2)
    with pytest.raises(ValueError, match="group_reduction='max'"):
        criterion(group_reduction="max")


def test_a_recurrent_step_has_a_loss_of_its_own():
    plan = Plan.dense_recurrent(2)
    losses = criterion()(steps(plan), plan, random_targets([1, 1]))
    assert {k.split("/")[1] for k in losses} == {"stage1", "stage2", "stage2_again"}


def test_proposals_are_trained_as_class_zero():
    plan, targets = Plan.sequential(1), random_targets([3, 2])
    proposals = predictions(g=1, q=40, seed=9)
    losses = criterion()(steps(plan), plan, targets, proposals)
    as_zero = criterion()([proposals], plan, targets.class_agnostic())
    for kind in ("class", "l1", "giou"):
        torch.testing.assert_close(losses[f"loss_{kind}/proposals"], as_zero[f"loss_{kind}/stage1"])


def test_float32_whatever_the_autocast():
    plan, targets = Plan.sequential(1), random_targets([3, 2])
    outputs = steps(plan)
    half = [StagePrediction(s.logits.bfloat16(), s.boxes) for s in outputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion()(half, plan, targets)
    exact = criterion()([StagePrediction(h.logits.float(), h.boxes) for h in half], plan, targets)
    for key, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[key], rtol=0, atol=0)


def product_of_focal_negatives(logits: torch.Tensor, gamma: float) -> torch.Tensor:
    return 0.75 * (logits.sigmoid() ** gamma * torch.nn.functional.softplus(logits)).sum((0, 2, 3))


@pytest.mark.parametrize("gamma", [2.0, 1.5])
@pytest.mark.parametrize("at_once", [7, 40, 10_000])  # parts of rows, several rows, everything
def test_focal_loss_in_blocks_is_the_plain_product(gamma, at_once, monkeypatch):
    monkeypatch.setitem(classification._ELEMENTS_AT_ONCE, "cpu", at_once)
    logits = (4 * torch.randn(2, 3, 4, 5, dtype=torch.float64)).requires_grad_()
    weight = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    found = FocalClassification(gamma=gamma)._negatives(logits)
    expected = product_of_focal_negatives(logits, gamma)
    torch.testing.assert_close(found, expected)
    (expected,) = torch.autograd.grad(expected @ weight, logits)
    for _ in range(2):  # the second pass through a retained graph computes its gradient again
        (gradient,) = torch.autograd.grad(found @ weight, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_focal_loss_takes_the_memory_of_logits_and_gradient():
    logits = torch.randn(2, 16, 300, 200, requires_grad=True)
    with LiveMemory() as live:
        FocalClassification()._negatives(logits).sum().backward()
    assert live.peak < 2.4 * logits.nbytes  # logits, gradient and blocks; the plain product takes 6


def test_focal_loss_compiles_in_one_graph():
    logits = torch.randn(2, 3, 4, 5)
    compiled = torch.compile(FocalClassification()._negatives, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), product_of_focal_negatives(logits, 2.0))
