"""An auxiliary query set: its own matching, no influence on the first set, nothing of it at inference."""

from __future__ import annotations

import pytest
import torch

from helpers import build, random_batch, random_targets
from small_models import lively, small_config
from sqr.recollection import Plan
from test_criterion import criterion, steps

DETECTORS = [
    *("deformable_plain", "deformable_two_stage", "adamixer"),
    *("detr", "dab_detr", "dab_deformable_detr", "group_detr"),
]
BATCH = ([(64, 96), (96, 64)], [2, 1])


def hybrid_config(detector: str, plan: str = "selective", *, num_auxiliary: int = 15):
    cfg = small_config(detector, plan, num_stages=3)
    cfg.query_generator.num_auxiliary = num_auxiliary
    if detector == "deformable_two_stage":
        cfg.query_generator.mixed_selection = True
        cfg.decoder.stages.look_forward_twice = True
    return cfg


def test_repeated_targets_stay_with_their_images():
    targets = random_targets([2, 0, 1])
    twice = targets.repeated(2)
    assert twice.counts == (4, 0, 2)
    assert twice.image_index.tolist() == [0, 0, 0, 0, 2, 2]
    assert torch.equal(twice.boxes, targets.boxes[[0, 1, 0, 1, 2, 2]])
    assert torch.equal(twice.labels, torch.cat(twice.class_ids))


def test_the_auxiliary_set_is_matched_with_repeated_objects_under_its_own_weight():
    plan, targets = Plan.selective(3), random_targets([2, 1])
    first, auxiliary = steps(plan, q=8), steps(plan, q=20)
    losses = criterion(auxiliary_repeats=3, auxiliary_weight=0.5)(first, plan, targets, auxiliary=auxiliary)
    alone = criterion()(first, plan, targets)
    many = criterion()(auxiliary, plan, targets.repeated(3))
    assert len(losses) == 2 * len(alone)
    for key, value in alone.items():
        torch.testing.assert_close(losses[key], value)
        torch.testing.assert_close(losses[key.replace("/", "/auxiliary_")], 0.5 * many[key])


def test_an_auxiliary_set_that_is_too_small_is_named():
    plan, targets = Plan.sequential(1), random_targets([1, 3])
    with pytest.raises(ValueError, match=r"image 1 has 3 objects, 18 with auxiliary_repeats=6, but .* only 17 queries"):
        criterion()(steps(plan, q=8), plan, targets, auxiliary=steps(plan, q=17))


def gradients(model, losses) -> dict[str, torch.Tensor]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = torch.autograd.grad(sum(losses), parameters.values(), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), values, strict=True)}


def the_two_sets(table: torch.Tensor, num_groups: int) -> list[torch.Tensor]:
    """The rows of a query table of the first set, and those of the auxiliary one; groups are one after another."""
    return [part.flatten(0, 1) for part in table.unflatten(0, (num_groups, -1)).split((7, 15), dim=1)]


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_sets_do_not_influence_each_other(detector):
    groups = 2 if detector == "group_detr" else 1
    both = lively(build(hybrid_config(detector))).double().train()
    one = build(hybrid_config(detector, num_auxiliary=0)).double().train()
    names = [n for n, p in one.state_dict().items() if p.shape != both.state_dict()[n].shape]
    first = {n: the_two_sets(v, groups)[0] if n in names else v for n, v in both.state_dict().items()}
    one.load_state_dict(first)
    losses, expected = both(random_batch(*BATCH)), one(random_batch(*BATCH))
    assert set(losses) - set(expected) == {k for k in losses if "auxiliary" in k} != set()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    auxiliary = gradients(both, [v for k, v in losses.items() if "auxiliary" in k])
    together, alone = gradients(both, losses.values()), gradients(one, expected.values())
    for name, gradient in together.items():
        rest = gradient - auxiliary[name]
        if name in names:
            assert not the_two_sets(rest, groups)[1].any()
            assert not the_two_sets(auxiliary[name], groups)[0].any()
            rest = the_two_sets(rest, groups)[0]
        assert (rest - alone[name]).norm() <= 1e-4 * alone[name].norm() + 1e-6, name


@pytest.mark.parametrize("detector", DETECTORS)
def test_inference_has_only_the_first_set_whatever_the_plan(detector):
    models = [build(hybrid_config(detector, plan)) for plan in ("sequential", "selective")]
    state = lively(models[0]).state_dict()
    outputs = []
    for model in models:
        model.load_state_dict(state)
        outputs.append(model.eval().forward_stages(random_batch(*BATCH)))
    assert outputs[0][0].scores.shape[1] == 7
    assert torch.equal(outputs[0][0].scores, outputs[1][0].scores)


@pytest.mark.parametrize("twice", [False, True])
def test_look_forward_twice_sends_a_boxs_loss_to_the_stage_before_and_no_further(twice):
    cfg = hybrid_config("deformable_two_stage", "sequential")
    cfg.decoder.stages.look_forward_twice = twice
    model = lively(build(cfg)).train()
    memory = model.encode(random_batch(*BATCH))
    initial = model.query_generator(memory)
    last = model.decoder(initial.state, memory)[2].boxes
    heads = [stage.bbox_embed.layers[-1].weight for stage in model.decoder.stages]
    reached = torch.autograd.grad(last.sum(), heads, allow_unused=True)
    assert [g is not None and bool(g.any()) for g in reached] == [False, twice, True]


def test_mixed_selection_learns_the_content_and_takes_the_position_from_the_proposal():
    model = lively(build(hybrid_config("deformable_two_stage"))).train()
    initial = model.query_generator(model.encode(random_batch(*BATCH)))
    content = model.query_generator.query_embed.weight
    assert torch.equal(initial.state.content[1, 0], content[:7])
    assert torch.equal(initial.auxiliary.content[1, 0], content[7:])
    assert not torch.equal(initial.state.extras["position"][0], initial.state.extras["position"][1])
    scores = initial.proposals.logits[:, 0, :, 0]
    best = initial.proposals.boxes[0, 0][scores[0].topk(22).indices]
    reference = torch.cat([initial.state.reference, initial.auxiliary.reference], dim=2)
    torch.testing.assert_close(reference[0, 0], best)
