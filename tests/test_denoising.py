"""Denoising queries: the noise, who sees whom, recollection against a naive loop, nothing of it at inference."""

from __future__ import annotations

import pytest
import torch

from helpers import build, random_batch, random_targets
from small_models import lively, small_config
from sqr.boxes import cxcywh_to_xyxy
from sqr.layers.denoising import ContrastiveDenoising
from sqr.recollection import Plan
from sqr.structures import QueryState
from sqr.targets import Targets

BATCH = ([(64, 96), (96, 64)], [2, 1])


def dino(plan: str = "selective", *, sees_queries: bool = True):
    cfg = small_config("dino", plan, num_stages=3)
    cfg.query_generator.denoising.sees_queries = sees_queries
    return lively(build(cfg)).train()


def initial_queries(model, seed: int = 0):
    batch = random_batch(*BATCH)
    targets = Targets.from_batched_inputs(batch, num_classes=5, device=model.device)
    memory = model.encode(batch)
    torch.manual_seed(seed)
    return memory, targets, model.query_generator(memory, targets)


def test_groups_hold_every_object_twice_with_its_noise():
    targets = random_targets([3, 0, 2], num_classes=5)
    denoising = ContrastiveDenoising(num_classes=5, dim=8, num_queries=100, label_noise=0.5, box_noise=0.4)
    made = denoising(targets)
    assert made.state.content.shape == (3, 33, 6, 8) and made.assignment.tolist() == [0, 1, 2, 0, 1]
    objects = cxcywh_to_xyxy(targets.boxes)[:, None]
    half = targets.boxes[:, None, 2:].repeat(1, 1, 2) / 2
    corners = cxcywh_to_xyxy(made.state.reference)
    for first, least, most in ((0, 0.0, 0.4), (3, 0.4, 0.8)):  # positives, then negatives
        noisy = corners[targets.image_index, :, made.assignment + first]  # (T, G, 4)
        moved = (noisy - objects).abs() / half
        inside = (noisy > 0.01) & (noisy < 0.99)  # the image's edge stops the others
        assert moved.max() <= most + 1e-3 and moved[inside].min() >= least - 1e-3
    labels = made.state.content[targets.image_index, :, made.assignment]
    kept = (labels == denoising.label_embed.weight[targets.labels][:, None]).all(-1).float().mean()
    assert 0.7 < kept < 0.9  # a quarter is replaced, a fifth of them by the same label
    filled = made.state.content[1]
    assert torch.equal(filled, torch.zeros_like(filled)) and (made.state.reference[1] == 0.5).all()


@pytest.mark.parametrize(("counts", "shape"), [([0, 0], (2, 8, 2)), ([20, 1], (2, 1, 40))])
def test_no_objects_and_more_objects_than_queries(counts, shape):
    denoising = ContrastiveDenoising(num_classes=5, dim=4, num_queries=8)
    made = denoising(random_targets(counts))
    assert made.state.content.shape[:3] == shape
    made.state.content.sum().backward()
    assert denoising.label_embed.weight.grad is not None  # a process without objects has a gradient to average too


@pytest.mark.parametrize("sees_queries", [True, False])
def test_denoising_queries_see_their_group_and_perhaps_the_matched_queries(sees_queries):
    model = dino(sees_queries=sees_queries)
    memory, targets, initial = initial_queries(model)

    def predictions():
        model.query_generator.forward = lambda *_: initial
        decoded = model.decode(memory, targets)
        return [torch.cat([p.logits for p in x], dim=1) for x in (decoded.predictions, decoded.denoising)]

    with torch.no_grad():
        matched, noisy = predictions()
        assert [x.shape[1] for x in (matched, noisy)] == [model.decoder.plan.total, 2 * model.decoder.plan.total]
        initial.denoising.state.content[:, 1] += 1  # the second group
        changed_matched, changed = predictions()
        torch.testing.assert_close(matched, changed_matched)
        torch.testing.assert_close(noisy[:, 0::2], changed[:, 0::2])
        assert ((noisy - changed)[:, 1::2].abs().amax((2, 3)) > 1e-4).all()
        initial.denoising.state.content[:, 1] -= 1
        initial.state.content = initial.state.content + 1
        _, changed = predictions()
        assert ((noisy - changed).abs().amax((2, 3)) > 1e-4).all() == sees_queries
        if not sees_queries:
            torch.testing.assert_close(noisy, changed)


def naive_total(model, memory, targets, initial) -> torch.Tensor:
    """The loss of every path alone: its matched queries, and each denoising group beside them in a run of its own."""
    noisy, criterion, one = initial.denoising.state, model.criterion, Plan.sequential(1)
    total = sum(v for k, v in criterion([initial.proposals], one, targets).items())  # with the objects' own classes
    for group in range(noisy.num_groups):
        part = QueryState(noisy.content[:, group : group + 1], noisy.reference[:, group : group + 1])
        states = {(0,): initial.state.beside(part)}
        for info in model.decoder.plan.sets:
            stage = model.decoder.stages[info.stage - 1]
            states[info.path], prediction = stage(states[info.path[:-1]], stage.prepare(memory))
            matched, denoised = prediction.split(initial.state.content.shape[2], 1)
            losses = criterion([matched], one, targets, None, None, [denoised], assignment=initial.denoising.assignment)
            total = total + sum(v for k, v in losses.items() if "denoising" in k or group == 0) * 1.0
    return total


def test_recollection_equals_a_naive_loop():
    model = dino().double()
    totals, gradients = [], []
    for naive in (False, True):
        model.zero_grad()
        memory, targets, initial = initial_queries(model)
        model.query_generator.forward = lambda *_, initial=initial: initial
        if naive:
            groups = initial.denoising.state.num_groups
            model.criterion.denoising_weight = 1 / groups
            total = naive_total(model, memory, targets, initial)
        else:
            total = sum(model.losses(model.decode(memory, targets), targets).values())
        del model.query_generator.forward
        total.backward()
        totals.append(total.item())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
    assert list(gradients[0]) == list(gradients[1])
    for name, ours in gradients[0].items():
        torch.testing.assert_close(ours, gradients[1][name], rtol=1e-4, atol=1e-6 * ours.norm().item())


def test_nothing_of_it_at_inference():
    model = dino().eval()
    batch = random_batch(*BATCH)
    with torch.no_grad():
        decoded = model.decode(model.encode(batch))
    assert decoded.denoising is None and decoded.predictions[-1].logits.shape[1:3] == (1, 7)
