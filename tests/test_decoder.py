"""Folded groups against a naive loop over groups, isolation, references, and the last stage alone."""

from __future__ import annotations

import pytest
import torch

from helpers import build, random_batch
from small_models import DETECTORS, SPECIAL_FIRST, lively, small_config
from sqr.decoder import DecoderStage, RecollectingDecoder
from sqr.recollection import Plan
from sqr.structures import QueryState


def memory_and_queries(model, batch):
    images, mask = model.preprocess(batch)
    memory = model.encoder(model.backbone(images), mask)
    return memory, model.query_generator(memory).state


def run_stage(model, number: int, state: QueryState, memory):
    """A stage outside of the decoder."""
    stage = model.decoder.stages[number]
    return stage(state, stage.prepare(memory))


def run_naively(decoder: RecollectingDecoder, initial: QueryState, memory):
    """Every group alone, in a Python loop that follows the plan's paths and knows nothing of concatenation.

    The benchmarks have such a loop too; this one is apart from it, so that no change to a benchmark changes what the
    decoder is held against.
    """
    done = {(0,): initial}
    logits, boxes = [], []
    for info in decoder.plan.sets:
        stage = decoder.stages[info.stage - 1]
        state, prediction = stage(done[info.path[:-1]], stage.prepare(memory))
        done[info.path] = state
        logits.append(prediction.logits)
        boxes.append(prediction.boxes)
    return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


@pytest.mark.parametrize("plan", ["selective", "dense", "dense_recurrent", "sampled"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_folded_equals_naive_loop_forward_and_backward(detector, plan):
    model = lively(build(small_config(detector, plan))).train()
    model.decoder.draw_number = 0  # a sampled plan shows its draw 0
    if detector == "adamixer":
        model.double()  # with random weights it multiplies rounding errors by about ten a stage
    batch = random_batch([(64, 96), (96, 64)], [2, 3])
    gradients = []
    outputs = []
    for naive in (False, True):
        model.zero_grad()
        memory, initial = memory_and_queries(model, batch)
        if naive:
            logits, boxes = run_naively(model.decoder, initial, memory)
        else:
            predictions = model.decoder(initial, memory)
            logits = torch.cat([p.logits for p in predictions], dim=1)
            boxes = torch.cat([p.boxes for p in predictions], dim=1)
        weights = torch.arange(logits.shape[1], dtype=torch.float32)[:, None, None] + 1
        ((logits.sin() + boxes.sum(-1, keepdim=True).cos()) * weights).sum().backward()
        outputs.append((logits, boxes))
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    noise = 1e-6 * max(gradient.norm() for gradient in gradients[0].values())  # some gradients are zero but for it
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() <= 1e-4 * gradient.norm() + noise, name


@pytest.mark.parametrize("detector", DETECTORS)
def test_groups_do_not_leak_into_each_other(detector):
    model = lively(build(small_config(detector))).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    noise = torch.randn(initial.content.shape, generator=torch.Generator().manual_seed(3))
    other = QueryState(initial.content + noise, initial.reference, initial.extras)
    stage = model.decoder.stages[1]
    memory = stage.prepare(memory)
    _, alone = stage(initial, memory)
    _, together = stage(QueryState.cat([initial, other]), memory)
    groups = initial.num_groups
    torch.testing.assert_close(together.logits[:, :groups], alone.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.boxes[:, :groups], alone.boxes, rtol=1e-5, atol=1e-5)
    assert (together.logits[:, groups] - together.logits[:, 0]).abs().max() > 1e-3


def test_refined_references_are_detached_and_each_group_keeps_its_own():
    model = lively(build(small_config("deformable_refine"))).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    first, prediction = run_stage(model, 0, initial, memory)
    assert not first.reference.requires_grad and prediction.boxes.requires_grad and first.content.requires_grad
    torch.testing.assert_close(first.reference, prediction.boxes.detach())
    both = QueryState.cat([initial, first])
    assert torch.equal(both.reference[:, 0], initial.reference[:, 0])
    assert (both.reference[:, 0, :, 2:] == 0).all() and (both.reference[:, 1, :, 2:] > 0).all()


def test_plain_form_keeps_the_initial_reference_and_its_gradient():
    model = build(small_config("deformable_plain")).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    state, _ = run_stage(model, 0, initial, memory)
    assert state.reference is initial.reference and state.reference.requires_grad


def test_decoder_rejects_plans_that_do_not_fit():
    stages = [DecoderStage() for _ in range(3)]
    with pytest.raises(ValueError, match="made for 4 stages but the decoder has 3"):
        RecollectingDecoder(stages=stages, plan=Plan.selective(4))
    with pytest.raises(ValueError, match="never runs stage 1"):
        RecollectingDecoder(stages=stages, plan=Plan.looped(3, times=3))
    with pytest.raises(ValueError, match="unknown recollection plan"):
        RecollectingDecoder(stages=stages, plan="everything")
    with pytest.raises(ValueError, match="recollected groups are for training only"):
        RecollectingDecoder(stages=stages, inference_plan="selective")
    decoder = RecollectingDecoder(stages=stages, plan="dqrr", inference_plan=Plan.looped(3, times=5))
    assert decoder.train().active_plan.num_steps == 4 and decoder.eval().active_plan.num_steps == 5


def test_a_sampled_plan_is_drawn_by_number_or_else_by_forward_pass():
    model = build(small_config(plan={"name": "sampled"}, num_stages=6)).train()
    decoder, (memory, initial) = model.decoder, memory_and_queries(model, random_batch([(64, 64)], [2]))
    seen = []
    for _ in range(4):
        decoder(initial, memory)
        seen.append(decoder.active_plan)
    assert len(set(seen)) > 1 and seen == [decoder.plan.draw(n) for n in range(1, 5)]
    decoder.draw_number = 9
    for _ in range(2):
        assert [p.logits.shape[1] for p in decoder(initial, memory)] == [1, 2, 2, 2, 2, 2]
        assert decoder.active_plan == decoder.plan.draw(9)
    assert decoder.eval().active_plan == Plan.sequential(6)


def test_the_stage_dial_ends_after_the_stages_asked_for():
    model = lively(build(small_config())).eval()
    batch = random_batch([(64, 64), (96, 64)], [2, 1])
    whole = model.forward_stages(batch)
    model.decoder.inference_plan = Plan.from_spec({"name": "sequential", "stages": 2}, 4)
    for dialled, full, detections in zip(model.forward_stages(batch), whole, model(batch), strict=True):
        assert torch.equal(dialled.scores, full.scores[:2]) and torch.equal(dialled.boxes, full.boxes[:2])
        best = model.postprocessor(full.scores[1], full.boxes[1], full.image_size)
        assert torch.equal(detections["instances"].scores, best.scores)


def test_dab_box_loss_reaches_the_offset_that_made_the_box():
    """DAB-DETR hands its box on attached, so that a box's loss trains the offset before it, and only that."""
    model = lively(build(small_config("dab_detr"))).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    first, _ = run_stage(model, 0, initial, memory)
    first = QueryState(first.content.detach(), first.reference)
    second, prediction = run_stage(model, 1, first, memory)
    assert torch.autograd.grad(prediction.boxes.sum(), first.reference, retain_graph=True)[0].abs().max() > 0
    for blind in (prediction.logits, second.content, second.reference):
        assert torch.autograd.grad(blind.sum(), first.reference, retain_graph=True, allow_unused=True)[0] is None


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_last_stage_alone_is_a_decoder(detector):
    """What dense recollection with recurrence keeps: one stage, looped from the initial queries."""
    whole = lively(build(small_config(detector, "dense_recurrent", num_stages=3))).eval()
    whole.decoder.inference_plan = Plan.looped(3, times=2)
    cfg = small_config(detector, "sequential", num_stages=1)
    if detector in SPECIAL_FIRST:
        cfg.decoder.stages.special_first = False
    alone = build(cfg).eval()
    alone.decoder.inference_plan = Plan.looped(1, times=2)
    state = {
        name.replace("decoder.stages.2.", "decoder.stages.0."): value
        for name, value in whole.state_dict().items()
        if not name.startswith(("decoder.stages.0.", "decoder.stages.1."))
    }
    alone.load_state_dict(state, strict=True)
    batch = random_batch([(64, 96), (96, 64)], [0, 0])
    for a, b in zip(whole.forward_stages(batch), alone.forward_stages(batch), strict=True):
        assert len(a.scores) == 2 and torch.equal(a.scores, b.scores) and torch.equal(a.boxes, b.boxes)
