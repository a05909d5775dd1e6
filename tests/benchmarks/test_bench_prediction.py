"""Predicted memory against real tensors, real processes and fake CUDA tensors."""

from argparse import Namespace
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from torch._subclasses.fake_tensor import FakeTensorMode

from sqr.benchmarks import prediction
from sqr.benchmarks.live_memory import LiveMemory
from sqr.benchmarks.peak import Measurement, measure
from sqr.benchmarks.prediction import Rehearsal, _AnyNumbers, optimizer_state_ratio
from sqr.benchmarks.subjects import Subject, load_subject_config, random_batch
from sqr.ops import functional
from sqr.recollection import Plan

SIZE = (96, 128)
SHAPE = {"size": SIZE, "images": 2, "objects": 3}
SELECTIVE = Plan.selective(3)
THREE_STAGES = "model.decoder.stages.num_stages=3"


def config(name="deformable_detr_shapes", *overrides):
    return load_subject_config(Namespace(config_file=f"quick/{name}", overrides=list(overrides), device="cpu"))


class OnRealTensors(Rehearsal):
    """Counts a step that is really run on the CPU."""

    def _without_data(self):
        return nullcontext()


def test_live_memory_counts_storages_while_they_live():
    with LiveMemory() as live:
        a = torch.zeros(1000)
        view = a.view(10, 100)
        assert live.live == 4000
        b = a + 1
        del a
        assert live.live == 8000  # the view holds it
        del view
        assert live.live == 4000 and live.peak == 8000
        (b * 2).sum()
        assert live.peak == 8004
    assert live.live == 4000


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("deformable_detr_shapes", {"amp": True, "execution": "checkpoint-4"}),
        ("detr_shapes", {"accumulating": True}),
        ("adamixer_shapes", {"execution": "checkpoint"}),
    ],
)
def test_fake_tensors_count_as_real_ones_do(name, step):
    cfg = config(name, THREE_STAGES)
    predicted, real = (kind(cfg, device="cpu").step(SELECTIVE, **SHAPE, **step) for kind in (Rehearsal, OnRealTensors))
    assert predicted.parameters == real.parameters and predicted.gradients == real.gradients
    assert predicted.peak == pytest.approx(real.peak, rel=0.01)
    assert predicted.peak > predicted.parameters + predicted.gradients + predicted.optimizer


@pytest.mark.parametrize(
    ("name", "images", "execution", "overrides"),
    [
        ("deformable_detr_shapes", 16, "folded", [THREE_STAGES]),
        ("h_deformable_detr_shapes", 12, "folded", ["train.amp.enabled=True", THREE_STAGES]),
        ("dab_detr_shapes", 6, "checkpoint-4", ["train.accumulation_steps=2", THREE_STAGES]),
    ],
)
def test_prediction_is_within_five_per_cent_of_what_a_process_takes(name, images, execution, overrides):
    """The stated tolerance: resident memory of a fresh process on images of 128 pixels."""
    cfg = config(name, *overrides, "model.decoder.plan=selective")
    plan = Plan.from_spec("selective", cfg.model.decoder.stages.num_stages)
    predicted = Rehearsal(cfg, device="cpu").step(
        plan,
        size=(128, 128),
        images=images,
        objects=5,
        execution=execution,
        amp=cfg.train.amp.enabled,
        accumulating=cfg.train.accumulation_steps > 1,
    )
    what = Measurement(
        f"quick/{name}", overrides, (128, 128), images, 5, "cpu", 1, 0, plan="selective", execution=execution
    )
    assert predicted.peak == pytest.approx(measure(what).peak, rel=0.05)


def forward(model, device):
    mask = torch.zeros(2, *SIZE, dtype=torch.bool, device=device)
    return model.decode(model.encoder(model.backbone(torch.empty(2, 3, *SIZE, device=device)), mask))


@contextmanager
def cuda_autocast(enabled):
    """``torch.autocast("cuda")``, which switches itself off where there is no GPU."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", enabled)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


def alive_on_cuda(cfg, amp, monkeypatch):
    """Bytes alive after a forward pass of fake CUDA tensors, under PyTorch's own autocast."""

    def attention(q, k, v, attn_mask=None, dropout_p=0.0):  # without a GPU PyTorch chooses no fused kernel
        lowered = [x.bfloat16() if amp and x is not None and x.is_floating_point() else x for x in (q, k, v, attn_mask)]
        return prediction._efficient_attention(*lowered, dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(functional, "_takes_compiled", lambda value: True)
    with FakeTensorMode(allow_non_fake_inputs=True), _AnyNumbers():
        try:
            with torch.device("cuda"):
                model = instantiate(cfg.model).train()
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"this PyTorch makes no fake CUDA tensors: {error}")
        with LiveMemory() as live, cuda_autocast(amp):
            alive = forward(model, "cuda")
            return live.live, alive[0][-1].logits.dtype


@pytest.mark.skipif(bool(functional.library.reason), reason="needs the compiled operators")
@pytest.mark.parametrize(
    ("name", "amp", "more"),
    [
        ("deformable_detr_shapes", False, 0.005),
        ("deformable_detr_shapes", True, 0.06),  # what the sampling operators read is counted in float32
        ("adamixer_shapes", False, 0.005),
        ("detr_shapes", True, 0.005),
        ("dab_detr_shapes", False, 0.06),  # values are padded to the width of their keys
    ],
)
def test_a_prediction_for_a_gpu_keeps_what_cuda_tensors_keep(name, amp, more, monkeypatch):
    cfg = config(name, THREE_STAGES, "model.decoder.plan=selective")
    if "dropout" in cfg.model.decoder.stages:
        cfg.model.decoder.stages.dropout = 0.1
    rehearsal = Rehearsal(cfg, device="cuda")
    with rehearsal._without_data(), LiveMemory() as live, torch.autocast("cpu", torch.bfloat16, enabled=amp):
        alive = forward(rehearsal.model, "cpu")
        found, dtype = live.live, alive[0][-1].logits.dtype
    expected, expected_dtype = alive_on_cuda(cfg, amp, monkeypatch)
    assert dtype == expected_dtype and expected * 0.995 <= found <= expected * (1 + more)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_old_gradients_are_there_where_a_batch_is_fed_in_parts(device):
    rehearsal = Rehearsal(config("detr_shapes", THREE_STAGES), device=device)
    plain, part = (rehearsal.step(SELECTIVE, **SHAPE, accumulating=a) for a in (False, True))
    assert 0.9 * plain.gradients < part.peak - plain.peak <= plain.gradients


def test_optimizer_state():
    assert optimizer_state_ratio(config()) == 2  # AdamW
    assert optimizer_state_ratio(config("deformable_detr_shapes", "optimizer._target_=torch.optim.Adam")) == 2
    cfg = config()
    cfg.optimizer = {"_target_": "torch.optim.SGD", "params": None, "lr": 1.0}
    assert optimizer_state_ratio(cfg) == 0


def test_measured_steps_have_old_gradients_only_in_a_further_part_of_a_batch():
    subject = Subject.from_config(config("detr_shapes", THREE_STAGES))
    found = []
    subject.model.query_generator.register_forward_pre_hook(
        lambda *_: found.append(any(p.grad is not None for p in subject.model.parameters()))
    )
    batch = random_batch((64, 96), images=1, objects=1, num_classes=3)
    subject.step(batch)
    subject.step(batch)
    subject.step(batch, keep_gradients=True)
    subject.decoder_step(*subject.encode(batch))
    assert found == [False, False, True, False]
