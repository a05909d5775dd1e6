"""Mixed precision: what trains where, and that a float16 run goes on with its loss scale."""

import pytest
import torch

from engine_toys import ToyDetector, ToyMapper, run_toy, toy_dicts
from helpers import build, random_batch
from small_models import small_config
from sqr.engine import Trainer, build_train_loader
from sqr.errors import UserError


def make_trainer(model=None, **options):
    model = model or ToyDetector()
    loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)
    return Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=1e-3), seed=1, **options)


def test_bfloat16_trains_on_cpu_and_is_not_float32(tmp_path):
    finals = []
    for name, overrides in (("half", ["train.amp.enabled=True"]), ("full", [])):
        assert run_toy(tmp_path / name, *overrides, "train.max_iter=3", "train.eval_period=0") == 0
        finals.append(torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]["box_head.weight"])
    assert finals[0].dtype is torch.float32 and not torch.equal(*finals)


def test_float16_on_cpu_is_an_error_of_the_trainer_too():
    with pytest.raises(UserError, match=r"train\.amp\.dtype=float16 needs a GPU"):
        make_trainer(amp_dtype=torch.float16)


def with_scaler(scale):
    trainer = make_trainer()
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return trainer


def test_the_loss_scale_is_checkpointed():
    trainer = with_scaler(8.0)
    trainer.train(0, 3)
    assert trainer.grad_scaler.get_scale() == 16.0  # grew once, one step towards the next
    again = with_scaler(8.0)
    again.load_state_dict(trainer.state_dict())
    assert again.grad_scaler.state_dict() == trainer.grad_scaler.state_dict()
    assert again.grad_scaler.get_scale() == 16.0


def test_scaled_gradients_are_clipped_after_unscaling_and_give_the_same_step():
    weights = []
    for scale in (None, 1024.0):
        torch.manual_seed(0)
        trainer = make_trainer(ToyDetector(dropout=0.0), max_grad_norm=0.1)
        if scale:
            trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.train(0, 2)
        weights.append(trainer.model.box_head.weight.detach())
    torch.testing.assert_close(*weights)


def test_an_overflow_skips_the_step_and_lowers_the_scale():
    class Overflowing(ToyDetector):
        def forward(self, batched_inputs):
            losses = super().forward(batched_inputs)
            return {name: value * 1e10 for name, value in losses.items()}

    model = Overflowing()
    before = model.box_head.weight.detach().clone()
    trainer = make_trainer(model)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    trainer.train(0, 1)
    assert torch.equal(model.box_head.weight, before)
    assert trainer.grad_scaler.get_scale() == 2.0**99


@pytest.mark.parametrize("detector", ["deformable_two_stage", "adamixer", "detr"])
def test_detectors_have_float32_losses_and_finite_gradients_under_bfloat16(detector):
    model = build(small_config(detector, num_stages=2)).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(random_batch([(96, 96), (64, 96)], [2, 0]))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_and_resumes_on_a_gpu(tmp_path, dtype):
    options = ["train.device=cuda", "train.amp.enabled=True", f"train.amp.dtype={dtype}", "train.eval_period=0"]
    assert run_toy(tmp_path, "+model.interrupt_at=7", *options) == 130
    state = torch.load(tmp_path / "model_0000006.pth", weights_only=True)["trainer"]
    assert ("grad_scaler" in state) == (dtype == "float16")
    assert run_toy(tmp_path, *options, resume=True) == 0
