"""Parameter groups and schedules of the papers."""

import pytest
import torch
from torch import nn

from engine_toys import ToyDetector
from sqr.engine import get_param_groups, step_schedule
from sqr.errors import UserError


def groups_by_name(model, **options):
    names = {id(p): n for n, p in model.named_parameters()}
    groups = get_param_groups(model, base_lr=1.0, weight_decay=0.5, **options)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_published_multipliers_and_one_decay_for_all():
    got = groups_by_name(ToyDetector(), lr_multipliers={"backbone": 0.1, "sampling_offsets": 0.1})
    assert got.keys() == dict(ToyDetector().named_parameters()).keys()
    for name, (lr, decay) in got.items():
        assert lr == (0.1 if name.startswith("backbone") or "sampling_offsets" in name else 1.0)
        assert decay == 0.5


def test_another_decay_for_norms():
    got = groups_by_name(ToyDetector(), weight_decay_norm=0.0)
    assert {name for name, (_, decay) in got.items() if decay == 0} == {n for n in got if ".norm." in n}


def test_shared_once_and_frozen_left_out():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "backbone": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["backbone"].requires_grad_(False)
    groups = get_param_groups(model, base_lr=1.0, weight_decay=0.0, lr_multipliers={"backbone": 0.1})
    assert sum(len(g["params"]) for g in groups) == 3
    torch.optim.AdamW(groups)  # refuses a parameter that stands twice


@pytest.mark.parametrize("pattern", ["reference_points", "back", "backbone.bias.x"])
def test_pattern_without_a_parameter_is_an_error(pattern):
    with pytest.raises(UserError, match=f"no parameter is named '{pattern}'; the parts of .* backbone, .*stages"):
        get_param_groups(ToyDetector(), base_lr=1.0, weight_decay=0.0, lr_multipliers={pattern: 0.1})


def multipliers(max_iter, **options):
    schedule = step_schedule(max_iter=max_iter, **options)
    return [schedule(i / max_iter) for i in range(max_iter + 1)]  # asked once after the last too


@pytest.mark.parametrize("max_iter", [50, 1234, 90000])
@pytest.mark.parametrize(("milestones", "total"), [([40], 50), ([8, 11], 12), ([0.8], 1.0)])
def test_steps_fall_exactly_at_the_milestones(milestones, total, max_iter):
    got = multipliers(max_iter, milestones=milestones, total=total)
    steps = [round(m / total * max_iter) for m in milestones]
    for i in (0, *(s + d for s in steps for d in (-1, 0)), max_iter - 1):
        assert got[i] == pytest.approx(0.1 ** sum(i >= s for s in steps))


def test_warm_up_rises_to_one():
    got = multipliers(1000, milestones=[8], total=10, warmup_iters=100, warmup_factor=0.001)
    assert got[0] == pytest.approx(0.001)
    assert got[50] == pytest.approx(0.5, abs=0.01)
    assert got[101] == 1.0 and got[800] == pytest.approx(0.1)


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_very_short_runs_have_a_schedule(max_iter):
    got = multipliers(max_iter, milestones=[8, 11], total=12, warmup_iters=500)
    assert got[0] == pytest.approx(0.001)
    assert multipliers(max_iter, milestones=[8, 11], total=12)[0] == 1.0


@pytest.mark.parametrize("milestones", [[50], [0], [30, 20], [60]])
def test_impossible_milestones(milestones):
    with pytest.raises(UserError, match=r"must rise and lie between 0 and total=50"):
        step_schedule(milestones=milestones, total=50, max_iter=100)


def test_layer_decay_lowers_the_rate_with_the_depth():
    blocks = [nn.Linear(2, 2) for _ in range(3)]
    backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "blocks": nn.Sequential(*blocks), "norm1": nn.LayerNorm(2)})
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
    got = groups_by_name(model, lr_multipliers={"backbone": 0.1}, layer_decay={"backbone": 0.5})
    rates = {name.removesuffix(".weight"): rate for name, (rate, _) in got.items() if name.endswith("weight")}
    assert rates == pytest.approx(
        {
            "backbone.stem": 0.1 / 8,
            "backbone.blocks.0": 0.1 / 4,
            "backbone.blocks.1": 0.1 / 2,
            "backbone.blocks.2": 0.1,
            "backbone.norm1": 0.1,
            "head": 1.0,
        }
    )
    with pytest.raises(UserError, match="layer_decay: no parameter is in a module 'trunk'"):
        groups_by_name(model, layer_decay={"trunk": 0.5})
