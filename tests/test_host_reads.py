"""An iteration reads two things from its device: the matching costs, and one vector of numbers for the log."""

from __future__ import annotations

import types

import pytest
import torch
from detectron2.utils.events import EventStorage

from device_reads import DeviceReads
from helpers import build, random_batch
from small_models import DETECTORS, HYBRID, lively, small_config
from sqr.benchmarks.subjects import as_leaf
from sqr.engine import Trainer
from sqr.ops.functional import library
from sqr.targets import Targets

MATCHING, LOG = "cpu", "tolist"


def batch():
    return random_batch([(64, 96), (96, 64)], [2, 1])


def test_reads_are_counted():
    model = torch.nn.Linear(3, 3)
    x = torch.rand(2, 3)
    with DeviceReads(model).counting() as device:
        assert x.sum().item() >= 0 and x.tolist()  # on the host
        y = model(x.to(model.weight.device))
        y.sum().backward()
        assert device.reads == []
        back = y.detach().cpu()
        back.numpy(), back.tolist(), back[back > 0]
        assert device.reads == ["cpu"]
        if y.sum() > 1e9 or float(model.weight.grad[0, 0]) > 1e9:
            raise AssertionError
        y[y > 0], y.nonzero(), y.to("cpu"), torch.zeros(3, device=y.device).tolist()
    scalars = ["_local_scalar_dense"] * 2
    assert device.reads == ["cpu", *scalars, "index", "nonzero", "to", "tolist"]


@pytest.mark.parametrize("detector", [*DETECTORS, HYBRID])
def test_a_forward_pass_reads_the_costs_alone(detector):
    model = lively(build(small_config(detector))).train()
    with DeviceReads(model).counting() as device:
        model(batch())
    assert device.reads == [MATCHING]


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_iteration_reads_the_costs_and_what_it_logs(accumulation_steps, amp_dtype):
    model = lively(build(small_config("deformable_two_stage"))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    loader = types.SimpleNamespace(total_batch_size=2)
    options = {"max_grad_norm": 0.1, "amp_dtype": amp_dtype, "accumulation_steps": accumulation_steps}
    trainer = Trainer(model, loader, optimizer, seed=1, **options)
    trainer._data_loader_iter_obj = iter([batch(), batch()])
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(2):  # the second one with the optimizer's state
            with DeviceReads(model).counting() as device:
                trainer.run_step()
            assert device.reads == [MATCHING] * accumulation_steps + [LOG]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("detector", DETECTORS)
def test_on_a_gpu_nothing_waits_after_the_encoder_but_for_the_costs(detector, monkeypatch):
    """PyTorch's own check, which also sees uploads that wait."""
    if not library.has_cuda and ("deformable" in detector or detector == "adamixer"):
        pytest.skip("the operators were built without CUDA: their reference uploads sizes")
    model = lively(build(small_config(detector))).cuda().train()
    targets = Targets.from_batched_inputs(batch(), num_classes=5, device=model.device)
    copies, to_host = [], torch.Tensor.cpu

    def allowed(tensor):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        copies.append(tensor.shape)
        host = to_host(tensor)
        torch.cuda.set_sync_debug_mode(mode)
        return host

    monkeypatch.setattr(torch.Tensor, "cpu", allowed)
    for mode in ("default", "error"):  # at first libraries are loaded, which may wait
        memory = as_leaf(model.encode(batch()))
        try:
            torch.cuda.set_sync_debug_mode(mode)
            losses = model.losses(model.decode(memory, targets), targets)
            sum(losses.values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(copies) == 2
