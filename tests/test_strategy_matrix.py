"""Every detector under every strategy: a training step, the same state dict, the same evaluation as the plain model."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from helpers import build, random_batch
from small_models import DETECTORS, HYBRID, OTHER_SETS, lively, small_config
from sqr.recollection import Plan

STAGES = 3
STRATEGIES = {
    "sequential": "sequential",
    "sqr": "selective",
    "dqr": "dense",
    "sqr_from_stage_2": {"name": "selective", "start": 2},
    "explicit": [[0], [0, 1], [0, 2]],
    "dqrr": "dense_recurrent",
    "sampled": {"name": "sampled"},
}
BATCH = ([(64, 96), (96, 64)], [2, 1])


def model_of(detector: str, strategy: str):
    return lively(build(small_config(detector, STRATEGIES[strategy], num_stages=STAGES)))


@lru_cache(maxsize=1)
def plain(detector: str):
    return model_of(detector, "sequential").eval()


def outputs_of(model):
    return [torch.cat((o.scores, o.boxes), dim=-1) for o in model.eval().forward_stages(random_batch(*BATCH))]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("detector", [*DETECTORS, HYBRID])
def test_trains_and_evaluates(detector, strategy):
    model = model_of(detector, strategy)
    assert_evaluates_as_the_plain_model(model, detector)
    if other := OTHER_SETS.get(detector):
        assert_trains(model.double(), other=other, step=1e-6)  # a larger one reorders proposals
    else:
        assert_trains(model, other=None, step=1e-4)


def assert_evaluates_as_the_plain_model(model, detector: str) -> None:
    base, state = plain(detector), model.state_dict()
    assert list(state) == list(base.state_dict())
    base.load_state_dict(state)
    for ours, expected in zip(outputs_of(model), outputs_of(base), strict=True):
        assert len(ours) == STAGES and torch.equal(ours, expected)


def assert_trains(model, *, other: str | None, step: float) -> None:
    """Each step has its groups and its losses, every parameter its gradient, and a small step lowers the loss."""
    plan, groups = model.decoder.plan, []
    model.decoder.draw_number = 1
    run = model.decoder.forward_sets

    def spy(initials, memory):
        predictions = run(initials, memory)
        groups.extend([p.logits.shape[1] for p in steps] for steps in predictions)
        return predictions

    model.decoder.forward_sets = spy
    torch.manual_seed(0)  # of denoising
    losses = model.train()(random_batch(*BATCH))
    initial = plan.initial_groups(groups[0])
    assert groups == [[initial * n for n in plan.groups]] * (1 + (other == "auxiliary"))
    names = {key.split("/")[1] for key in losses} - {"proposals"}
    assert names == {*plan.step_names, *(f"{other}_{name}" for name in plan.step_names if other)}
    before = sum(losses.values())
    before.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    slope = sum(p.grad.square().sum() for p in trained.values())
    with torch.no_grad():
        for p in trained.values():
            p -= step * before / slope * p.grad  # lowers the loss by this share of it, to first order
        torch.manual_seed(0)
        after = sum(model(random_batch(*BATCH)).values())
    assert torch.isfinite(before) and after < before


@pytest.mark.parametrize("detector", [*DETECTORS, HYBRID])
def test_looped_evaluation_runs_the_last_stage_from_the_initial_queries(detector):
    """What the dense-recurrent plan trained as the paths 0-3 and ...-3-3."""
    model = plain(detector)
    cascade = model.decoder.inference_plan
    batch = random_batch(*BATCH)
    with torch.no_grad():
        memory = model.encode(batch)
        initial = model.query_generator(memory)
        last = model.decoder.stages[-1]
        once, first = last(initial.state, last.prepare(memory))
        _, second = last(once, last.prepare(memory))
        try:
            model.decoder.inference_plan = Plan.looped(STAGES, times=2)
            looped = model.decoder(initial.state, memory)
        finally:
            model.decoder.inference_plan = cascade
    for ours, expected in zip(looped, (first, second), strict=True):
        assert torch.equal(ours.logits, expected.logits) and torch.equal(ours.boxes, expected.boxes)
