"""Bounded memory: groups in passes, with or without checkpointing, are the same training step."""

from __future__ import annotations

import weakref

import pytest
import torch

from helpers import ROOT, build, random_batch
from small_models import lively, small_config
from sqr.benchmarks.live_memory import LiveMemory
from sqr.config.overrides import apply_overrides
from sqr.decoder import DecoderStage, RecollectingDecoder
from sqr.structures import PreparedMemory, QueryState, StagePrediction
from test_decoder import memory_and_queries

OPTIONS = [(True, None), (False, 2), (True, 2), (True, 1)]


def step(model, batch, checkpoint_groups: bool, size: int | None):
    """Losses and gradients."""
    model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = checkpoint_groups, size
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "detector", ["deformable_refine", "dab_detr", "dab_deformable_detr", "detr", "adamixer", "group_detr"]
)
def test_the_same_losses_and_gradients(detector):
    model = lively(build(small_config(detector, "selective"))).train()
    if detector == "adamixer":
        model.double()
    batch = random_batch([(64, 96), (96, 64)], [2, 3])
    losses, gradients = step(model, batch, False, None)
    noise = 1e-6 * max(g.norm() for g in gradients.values())
    for options in OPTIONS:
        other_losses, other_gradients = step(model, batch, *options)
        torch.testing.assert_close(other_losses, losses, rtol=1e-4, atol=1e-5)
        assert other_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (other_gradients[name] - gradient).norm() <= 1e-3 * gradient.norm() + noise, (options, name)


def dropping(detector, device="cpu", dropout=0.3):
    """A step function of a model with dropout, of whether to checkpoint and a seed."""
    cfg = small_config(detector)
    cfg.decoder.stages.dropout = dropout
    model = lively(build(cfg)).train().to(device)
    batch = random_batch([(64, 96), (96, 64)], [2, 3])

    def seeded(checkpoint_groups, seed=5):
        torch.manual_seed(seed)
        return step(model, batch, checkpoint_groups, 2)

    return seeded


@pytest.mark.parametrize("detector", ["deformable_refine", "detr"])
def test_checkpointing_repeats_dropout(detector):
    run = dropping(detector)
    plain = run(False)
    torch.testing.assert_close(plain, run(True), rtol=0, atol=0)
    assert sum(run(True, seed=6)[0].values()) != sum(plain[0].values())


@pytest.mark.parametrize("detector", ["deformable_refine", "detr", "adamixer"])
def test_random_states_are_kept_of_the_device_that_queries_are_on(detector, monkeypatch):
    """PyTorch keeps them of the devices of tensor arguments alone: without any, a GPU would draw other masks again."""
    model = build(small_config(detector)).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    model.decoder.checkpoint_groups = True
    devices = []

    def spy(*arguments):
        devices.append({x.device for x in arguments if isinstance(x, torch.Tensor)})
        return [], []

    monkeypatch.setattr(torch.utils.checkpoint, "get_device_states", spy)
    for module in (torch.cpu, torch.cuda):  # only then are a device's states looked at
        monkeypatch.setattr(module, "_initialized", True, raising=False)
    model.decoder(initial, memory)
    assert devices == [{initial.content.device}] * 3, "once in every stage with recollected groups"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("detector", ["deformable_refine", "dab_detr", "detr", "adamixer"])
def test_checkpointing_repeats_dropout_on_a_gpu(detector):
    run = dropping(detector, "cuda")
    torch.testing.assert_close(run(False), run(True), rtol=1e-3, atol=1e-4)  # sums in another order, no other masks


@pytest.mark.parametrize("detector", ["deformable_refine", "dab_detr", "detr", "adamixer"])
def test_checkpointing_under_bfloat16(detector):
    run = dropping(detector, dropout=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(run(False), run(True), rtol=0, atol=0)


def test_initial_groups_are_split_too():
    cfg = small_config("group_detr", "selective", num_stages=3)
    cfg.query_generator.num_groups = 5
    model = build(cfg).train()
    passes = []
    for stage in model.decoder.stages:
        stage.register_forward_pre_hook(lambda m, args: passes.append(args[0].num_groups))
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    model.decoder.max_groups_per_pass = 3
    predictions = model.decoder(initial, memory)
    assert passes == [3, 2, 3, 2, 3, 2, 3, 3, 3, 1, 3, 2]
    model.decoder.checkpoint_groups, passes[:] = True, []
    predictions = model.decoder(initial, memory)
    assert passes == [3, 2, 3, 2, 3, 2, 3, 3, 3, 1, 3, 2]
    passes.clear()
    sum(p.logits.sum() + p.boxes.sum() for p in predictions).backward()
    assert sorted(passes) == sorted([3, 2, 3, 3, 3, 1]), "the chain is not computed again"


@pytest.mark.parametrize("options", OPTIONS)
def test_passes_are_no_larger_than_allowed_and_the_chain_is_plain(options):
    model = build(small_config("deformable_plain", "dense")).train()
    model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = options
    passes, projections = [], []
    for stage in model.decoder.stages:
        stage.register_forward_pre_hook(lambda m, args: passes.append(args[0].num_groups))
        stage.cross_attn.value_proj.register_forward_hook(lambda *_: projections.append(1))
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    predictions = model.decoder(initial, memory)
    assert [p.logits.shape[1] for p in predictions] == [1, 2, 4, 8]
    size = options[1] or 99
    expected = []
    for recollected in (0, 1, 3, 7):
        expected += [min(size, recollected - begin) for begin in range(0, recollected, size)] + [1]
    assert passes == expected
    assert len(projections) == 4, "the values are projected once a step, however many passes"
    passes.clear()
    sum(p.logits.sum() + p.boxes.sum() for p in predictions).backward()
    assert sum(passes) == (1 + 3 + 7 if options[0] else 0), "only recollected groups are computed again"


def test_adamixers_mixing_matrices_never_exist_for_all_groups():
    cfg = small_config("adamixer")
    model = build(cfg).train()
    mixing = model.decoder.stages[0].mixing
    width = mixing.num_feature_groups * mixing.split[1]  # of a query's matrix over points
    batch = random_batch([(64, 64)], [2])
    queries = 7
    peaks = {}

    def groups_of(x: torch.Tensor) -> int:
        matrices = x.dim() == 2 and x.shape[1] == width and len(x) % queries == 0  # not the output's weight
        found.append(len(x) // queries if matrices else 0)
        return found[-1]

    for options in ((False, None), (True, 1)):
        memory, initial = memory_and_queries(model, batch)
        model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = options
        found = []
        with LiveMemory(groups_of) as live:
            predictions = model.decoder(initial, memory)
            sum(p.logits.sum() + p.boxes.sum() for p in predictions).backward()
        peaks[options] = (live.peak, max(found))
    total, steps = model.decoder.plan.total, model.decoder.plan.num_steps
    assert peaks[False, None][0] >= total and peaks[False, None][1] == model.decoder.plan.groups[-1]
    assert peaks[True, 1][1] == 1, "no tensor holds more than a group's"
    assert peaks[True, 1][0] <= steps + 3, "the chain's, and those of one pass with their gradients"


def test_evaluation_ignores_the_options():
    model = build(small_config("deformable_plain")).eval()
    batch = random_batch([(64, 64)], [0])
    plain = model.forward_stages(batch)[0]
    model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = True, 1
    assert torch.equal(model.forward_stages(batch)[0].scores, plain.scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_groups_per_pass": 0}, "max_groups_per_pass=0: a whole number from 1, or None"),
        ({"max_groups_per_pass": 2.5}, "max_groups_per_pass=2.5"),
        ({"max_groups_per_pass": "four"}, "max_groups_per_pass='four'"),
        ({"checkpoint_groups": 4}, "checkpoint_groups=4: True or False"),
        ({"compile_stages": "yes"}, "compile_stages='yes': True or False"),
    ],
)
def test_bad_values_are_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        RecollectingDecoder(stages=[torch.nn.Identity()], **options)


@pytest.mark.parametrize(
    "config",
    [
        "deformable_detr/sqr_deformable_detr_r50_50ep",
        "adamixer/sqr_adamixer_r50_12ep",
        "quick/sqr_detr_shapes",
        "quick/sqr_dab_detr_shapes",
    ],
)
def test_every_recipe_takes_the_options_as_overrides(config):
    from detectron2.config import LazyConfig

    cfg = LazyConfig.load(str(ROOT / "configs" / f"{config}.py"))
    overrides = ["model.decoder.checkpoint_groups=True", "model.decoder.max_groups_per_pass=4"]
    apply_overrides(cfg, [*overrides, "model.decoder.compile_stages=False"])
    assert cfg.model.decoder.checkpoint_groups is True and cfg.model.decoder.max_groups_per_pass == 4


@pytest.mark.parametrize("plan", ["sequential", "selective", "dense_recurrent"])
def test_outputs_and_prepared_memories_are_freed_after_their_last_use(plan):
    """At inference nothing else holds them: what is alive when a step starts is what a later step needs."""
    states, memories, alive = [], [], []

    class Counting(DecoderStage):
        def prepare(self, memory):
            memories.append(weakref.ref(prepared := PreparedMemory(memory, None)))
            return prepared

        def forward(self, state, memory):
            alive.append([sum(x() is not None for x in references) for references in (states, memories)])
            output = QueryState(state.content + 1, state.reference)
            states.append(weakref.ref(output))
            return output, StagePrediction(output.content, output.reference)

    decoder = RecollectingDecoder(stages=[Counting() for _ in range(4)], plan=plan).train()
    decoder(QueryState(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4)), torch.zeros(1))
    outputs = {"sequential": [0, 1, 1, 1], "selective": [0, 1, 2, 2], "dense_recurrent": [0, 1, 2, 3, 1]}[plan]
    assert [count for count, _ in alive] == outputs and {count for _, count in alive} == {1}
