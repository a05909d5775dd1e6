"""What a training step may not repeat, copy or keep: nothing of the memory depends on the plan, one host copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers import build, random_batch, random_targets
from memory_tools import CountOperators, kept_bytes
from small_models import lively, small_config
from sqr.classification import FocalClassification, SoftmaxClassification
from sqr.criterion import SetCriterion
from sqr.matcher import HungarianMatcher
from sqr.recollection import Plan
from sqr.structures import StagePrediction
from test_matcher import predictions

PLANS = ["sequential", "selective", "dense"]
DETECTORS = ["deformable_plain", "deformable_refine", "dab_detr", "dab_deformable_detr", "detr", "adamixer"]


class CountMemoryProjections(TorchFunctionMode):
    """Linear maps of all memory tokens, whichever module makes them."""

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens, self.count = tokens, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is F.linear and args[0].dim() == 3 and args[0].shape[1] == self.tokens
        return func(*args, **(kwargs or {}))


def encoded(model, sizes):
    batch = random_batch(sizes, [2] * len(sizes))
    images, mask = model.preprocess(batch)
    memory = model.encoder(model.backbone(images), mask)
    return memory, model.query_generator(memory).state


@pytest.mark.parametrize("detector", DETECTORS)
def test_projections_and_kept_memory_do_not_depend_on_the_plan(detector):
    model = build(small_config(detector)).train()
    # sizes whose token counts no other dimension has
    memory, initial = encoded(
        model, [(256, 352), (224, 352)] if detector in ("detr", "dab_detr") else [(160, 224), (128, 224)]
    )
    tokens = memory.tokens.shape[1]
    assert tokens not in {7 * groups for groups in range(1, 33)} and tokens > 48
    found = set()
    for plan in PLANS:
        model.decoder.plan = Plan.from_spec(plan, len(model.decoder.stages))
        with CountMemoryProjections(tokens) as counter:
            kept = kept_bytes(lambda: model.decoder(initial, memory), lambda x: tokens in x.shape)
        found.add((counter.count, kept))
    assert len(found) == 1, f"{found}: projections and bytes kept under {PLANS}"
    ((count, kept),) = found
    steps = len(model.decoder.stages)
    expected = {"adamixer": 0, "detr": 2 * steps, "dab_detr": 3 * steps}.get(detector, steps)
    assert count == expected and kept > 0


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("detector", ["deformable_plain", "dab_detr", "detr"])
def test_encodings_are_made_once_a_level_whatever_the_plan(detector, plan):
    model = build(small_config(detector, plan)).train()
    calls = []
    model.encoder.position_embedding.register_forward_hook(lambda *_: calls.append(1))
    model(random_batch([(64, 96), (96, 64)], [2, 1]))
    assert len(calls) == (4 if detector == "deformable_plain" else 1)


def make_criterion(classification) -> SetCriterion:
    return SetCriterion(
        matcher=HungarianMatcher(classification=classification), classification=classification, auxiliary_repeats=2
    )


@pytest.mark.parametrize("classification", [FocalClassification(), SoftmaxClassification()], ids=["focal", "softmax"])
def test_one_host_copy_for_the_loss_of_a_whole_step(classification, monkeypatch):
    plan = Plan.selective(6)
    outputs = [predictions(g=groups, q=12, seed=i) for i, groups in enumerate(plan.groups)]
    proposals, auxiliary = predictions(g=1, q=40), [predictions(g=groups, q=20) for groups in plan.groups]
    targets = random_targets([3, 2], num_classes=4)
    leaving = []
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _f=original, _n=name, **k: leaving.append(_n) or _f(self, *a, **k)
        )
    with CountOperators() as counter:
        losses = make_criterion(classification)(outputs, plan, targets, proposals, auxiliary)
    monkeypatch.undo()
    assert leaving == ["cpu"] and counter.synchronising == {}
    assert len(losses) == 3 * (6 + 6 + 1) and all(value.shape == () for value in losses.values())


def test_the_loss_runs_no_loop_over_groups():
    targets = random_targets([3, 2])
    calls = []
    for plan in (Plan.selective(4), Plan.dense(4)):  # 11 and 15 sets in 4 steps
        outputs = [predictions(g=groups, q=6) for groups in plan.groups]
        outputs = [StagePrediction(p.logits.requires_grad_(), p.boxes.requires_grad_()) for p in outputs]
        with CountOperators() as counter:
            sum(make_criterion(FocalClassification())(outputs, plan, targets).values()).backward()
        calls.append(sum(counter.calls.values()))
    assert calls[0] == calls[1]


COORDINATES = ("bbox_embed", "reference_points", "query_generator.ref_point_head")


@pytest.mark.parametrize("detector", [*DETECTORS, "deformable_two_stage", "group_detr"])
def test_bfloat16_keeps_boxes_costs_and_losses_in_float32(detector, monkeypatch):
    model = lively(build(small_config(detector))).train()
    batch = random_batch([(64, 96), (96, 64)], [2, 3])
    exact = sum(model(batch).values())
    dtypes = {}
    costs, group_losses = HungarianMatcher._costs, SetCriterion._group_losses

    def spy_costs(self, problems):
        dtypes["boxes"] = problems[0].prediction.boxes.dtype
        dtypes["cost"] = (result := costs(self, problems)).dtype
        return result

    def spy_losses(self, problem, match, normaliser):
        dtypes["logits"] = problem.prediction.logits.dtype
        return group_losses(self, problem, match, normaliser)

    monkeypatch.setattr(HungarianMatcher, "_costs", spy_costs)
    monkeypatch.setattr(SetCriterion, "_group_losses", spy_losses)
    references = []
    for stage in model.decoder.stages:
        stage.register_forward_hook(
            lambda m, args, out: references.append((out[0].reference.dtype, out[1].boxes.dtype))
        )
    heads = {name: m for name, m in model.named_modules(remove_duplicate=False) if name.endswith(COORDINATES)}
    made = {}
    for name, module in heads.items():
        module.register_forward_hook(lambda m, args, out, name=name: made.update({name: out.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    assert heads and set(made) == set(heads), "a head of coordinates was not run"
    assert set(made.values()) == {torch.float32}, "a cast after a bfloat16 product would come too late"
    assert set(dtypes.values()) == {torch.float32} and set(dtypes) == {"boxes", "cost", "logits"}
    assert set(references) == {(torch.float32, torch.float32)}
    total = sum(losses.values())
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(total, exact, rtol=0.05, atol=0)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
