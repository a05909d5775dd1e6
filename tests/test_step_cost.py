"""What a training step may not repeat, copy or keep: nothing of the memory depends on the plan, one host copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers import build, random_batch, random_targets
from memory_tools import CountOperators, kept_bytes
from small_models import DETECTORS, HYBRID, lively, small_config
from sqr.benchmarks.executions import running
from sqr.classification import FocalClassification, SoftmaxClassification
from sqr.criterion import SetCriterion
from sqr.layers import AdaptiveMixing
from sqr.matcher import HungarianMatcher
from sqr.ops import functional
from sqr.recollection import Plan
from sqr.structures import StagePrediction
from test_hybrid_matching import hybrid_config
from test_matcher import predictions

PLANS = ["sequential", "selective", "dense", "dense_recurrent"]
OPTIONS = [(False, None), (False, 2), (True, None), (True, 2)]
HYBRIDS = ["adamixer", "detr", "dab_detr", "group_detr"]  # with an auxiliary query set
# projections of the memory in a stage, and how many times its size is kept for backward, an image and a stage
PROJECTIONS = {"adamixer": 0, "detr": 2, "dab_detr": 3, "group_detr": 3}  # 1 elsewhere
KEPT = {"adamixer": (1, 0), "detr": (2, 2), "dab_detr": (2, 4), "group_detr": (2, 4)}  # (1, 1) elsewhere


class CountMemoryWork(TorchFunctionMode):
    """Linear maps of all memory tokens in whatever shape, in units of one memory; tensors of Python's numbers."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows, self.projections, self.host_tensors = rows, 0.0, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and (rows := args[0].numel() // args[0].shape[-1]) % self.rows == 0:
            self.projections += rows // self.rows
        self.host_tensors += func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        return func(*args, **(kwargs or {}))


def memory_sized(x: torch.Tensor, rows: int) -> bool:
    """Whether a tensor's storage, whatever part of it the tensor shows, holds several numbers of every memory token."""
    numbers = x.untyped_storage().nbytes() // x.element_size()
    return x.is_floating_point() and numbers % rows == 0 and numbers > rows


def subject(detector: str, hybrid: bool = False):
    """A model, a memory whose number of tokens has a prime factor that no other size has, and its initial queries."""
    cfg = hybrid_config(detector) if hybrid else small_config(detector, num_stages=3)
    model = build(cfg).train()
    one_level = detector in ("detr", "dab_detr", "group_detr")
    memory = model.encode(random_batch([(256, 416), (224, 416)] if one_level else [(160, 224), (128, 224)], [2, 2]))
    initial = model.query_generator(memory)
    assert (initial.auxiliary is not None) == (hybrid or detector == HYBRID)
    model.query_generator.forward = lambda memory, targets: initial
    return model, memory


def memory_work(model, memory) -> tuple[int, int, int]:
    """Projections of the memory, copies of AdaMixer's generator, bytes of memory-sized tensors kept for backward."""
    rows = memory.tokens.shape[0] * memory.tokens.shape[1]
    copies = []
    with pytest.MonkeyPatch.context() as patch, CountMemoryWork(rows) as counter:
        made = AdaptiveMixing.generators
        patch.setattr(AdaptiveMixing, "generators", lambda self: copies.append(self) or made(self))
        kept = kept_bytes(lambda: model.decode(memory), lambda x: memory_sized(x, rows))
    assert counter.host_tensors == 0 or functional.library.reason, "a blocking copy to the device"
    return int(counter.projections), len(copies), kept


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("detector", "hybrid"), [*((d, False) for d in [*DETECTORS, HYBRID]), *((d, True) for d in HYBRIDS)]
)
def test_work_on_the_memory_depends_on_neither_plan_nor_passes(detector, hybrid, dtype):
    model, memory = subject(detector, hybrid)
    found = {}
    for plan in PLANS:
        model.decoder.plan = Plan.from_spec(plan, 3)
        for options in OPTIONS if plan in ("selective", "dense") else OPTIONS[:1]:
            model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = options
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                found[(plan, *options)] = memory_work(model, memory)
    assert len(set(found.values())) == 1, found
    projections, copies, kept = found["dense", True, 2]
    assert projections == 3 * PROJECTIONS.get(detector, 1) and copies == 3 * (detector == "adamixer")
    an_image, a_stage = KEPT.get(detector, (1, 1))
    if dtype is None:
        assert kept == (an_image + 3 * a_stage) * memory.tokens.nbytes


@pytest.mark.parametrize("detector", ["deformable_plain", "dab_detr", "detr", "adamixer"])
def test_repeating_the_memory_for_groups_would_be_noticed(detector):
    model, memory = subject(detector)
    del model.query_generator.forward
    found = {}
    for plan in ("sequential", "selective"):
        with running(model, plan, "repeat"):
            found[plan] = memory_work(model, memory)
    if detector != "adamixer":
        assert found["selective"][0] == 2 * found["sequential"][0], "1 + 2 + 3 groups instead of 3"
    assert found["selective"][2] > found["sequential"][2]


@pytest.mark.parametrize("plan", PLANS[:3])
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


# DINO chooses its queries by scores, and bfloat16 chooses others: its loss is that of other queries.
@pytest.mark.parametrize("detector", [*(d for d in DETECTORS if d != "dino"), "deformable_two_stage", "group_detr"])
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


def test_tokens_with_their_positions_are_made_once_an_image_and_keep_their_gradient():
    model = build(small_config("detr")).train()
    memory = model.encode(random_batch([(64, 96)], [1]))
    with torch.no_grad():
        placed = memory.tokens_with_position
    assert placed.requires_grad and memory.tokens_with_position is placed
    prepared = model.decoder.stages[1].prepare(memory)
    assert torch.autograd.grad(prepared.projection.key.sum(), memory.tokens)[0].any()
