"""Several groups of initial queries (Group DETR) under recollection plans: isolation, losses, evaluation."""

from __future__ import annotations

import pytest
import torch

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.layers import QueryTable
from sqr.structures import QueryState
from sqr.targets import Targets

GROUPED = ["group_detr", "detr", "dab_detr", "dab_deformable_detr", "deformable_plain", "adamixer"]
GROUPS = 3
BATCH = ([(64, 96), (96, 64)], [2, 3])


def grouped(detector: str, plan: str, num_groups: int = GROUPS):
    cfg = small_config(detector, plan, num_stages=3)
    cfg.query_generator.num_groups = num_groups
    return lively(build(cfg)).train()


def one_group(state: QueryState, group: int) -> QueryState:
    pick = slice(group, group + 1)
    extras = {name: value[:, pick] for name, value in state.extras.items()}
    return QueryState(state.content[:, pick], state.reference[:, pick], extras)


def gradients(model, batch, targets, groups) -> tuple[float, dict]:
    """The mean loss of some groups, each run alone, or of all in one run (None), and its gradients."""
    model.zero_grad()
    images, mask = model.preprocess(batch)
    memory = model.encoder(model.backbone(images), mask)
    initial = model.query_generator(memory).state
    states = [initial] if groups is None else [one_group(initial, g) for g in groups]
    losses = [model.criterion(model.decoder(s, memory), model.decoder.plan, targets) for s in states]
    total = sum(sum(loss.values()) for loss in losses) / len(losses)
    total.backward()
    return total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("plan", ["sequential", "selective"])
@pytest.mark.parametrize("detector", GROUPED)
def test_groups_trained_together_give_the_gradients_of_each_alone(detector, plan):
    model, batch = grouped(detector, plan), random_batch(*BATCH)
    targets = Targets.from_batched_inputs(batch, num_classes=5, device=model.device)
    together, ours = gradients(model, batch, targets, None)
    alone, theirs = gradients(model, batch, targets, range(GROUPS))
    assert together == pytest.approx(alone, rel=1e-5)
    noise = 1e-6 * max(g.norm() for g in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm() + noise, name


def test_a_plans_groups_are_multiplied_and_the_inference_chain_comes_last():
    model, batch = grouped("group_detr", "selective"), random_batch(*BATCH)
    images, mask = model.preprocess(batch)
    memory = model.encoder(model.backbone(images), mask)
    initial = model.query_generator(memory).state
    assert initial.num_groups == GROUPS
    predictions = model.decoder(initial, memory)
    assert [p.logits.shape[1] for p in predictions] == [GROUPS * g for g in model.decoder.plan.groups]
    state = one_group(initial, GROUPS - 1)
    for stage, prediction in zip(model.decoder.stages, predictions, strict=True):
        state, expected = stage(state, stage.prepare(memory))
        torch.testing.assert_close(prediction.logits[:, -1:], expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("detector", GROUPED)
def test_evaluation_uses_the_first_group_only(detector):
    several, one = grouped(detector, "selective").eval(), grouped(detector, "selective", num_groups=1).eval()
    state = several.state_dict()
    first = {k: v[: len(one.state_dict()[k])] if v.shape != one.state_dict()[k].shape else v for k, v in state.items()}
    one.load_state_dict(first)
    batch = random_batch(*BATCH)
    for a, b in zip(several.forward_stages(batch), one.forward_stages(batch), strict=True):
        assert a.scores.shape[1] == 7 and torch.equal(a.scores, b.scores) and torch.equal(a.boxes, b.boxes)


def test_messages_name_the_group():
    model, batch = grouped("detr", "selective"), random_batch(*BATCH)
    with torch.no_grad():
        model.query_generator.query_embed.weight[-1] = float("nan")  # the last group
    with pytest.raises(FloatingPointError, match=r"stage1, group 3 of 3, query"):
        model(batch)


def test_a_table_without_groups_is_refused():
    with pytest.raises(ValueError, match="num_groups=0"):
        QueryTable(num_queries=3, dim=4, num_groups=0)
