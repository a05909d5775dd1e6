"""The averaged weights: their formula, their own metrics and files, and reading them back."""

import json

import pytest
import torch

from engine_toys import ToyDetector, read_metrics, run_toy
from sqr.checkpoint.loading import load_model_weights
from sqr.engine import ModelEMA
from sqr.errors import UserError


def load(path):
    return torch.load(path, weights_only=True)


def test_average_follows_the_formula():
    model, history = ToyDetector(), []
    ema = ModelEMA(model, decay=0.9, warmup_iters=3)
    for _ in range(5):
        for p in model.parameters():
            p.data += torch.randn_like(p)
        ema.update(model)
        history.append(model.box_head.weight.detach().clone())
    expected = history[0]
    for t, weight in enumerate(history[1:], start=2):
        decay = 0.9 * (1 - torch.tensor(-t / 3).exp())
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.model.box_head.weight, expected)
    assert ema.num_updates == 5 and ModelEMA(model, decay=0.9, warmup_iters=0).decay_at(1) == 0.9


def test_buffers_are_the_models():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    ema = ModelEMA(model, decay=0.9)
    model(torch.rand(2, 3, 4, 4))
    ema.update(model)
    ema.update(model)
    assert torch.equal(ema.model[0].running_mean, model[0].running_mean)


@pytest.fixture(scope="module")
def averaged_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")
    assert run_toy(folder, "train.ema.enabled=True", "train.ema.decay=0.9", "train.ema.warmup_iters=2") == 0
    return folder


def test_ema_has_metrics_of_its_own_and_leaves_the_run_as_it_is(averaged_run, tmp_path):
    assert run_toy(tmp_path) == 0
    plain, averaged = load(tmp_path / "model_final.pth"), load(averaged_run / "model_final.pth")
    for name, value in plain["model"].items():
        assert torch.equal(averaged["model"][name], value)
    assert "ema" not in plain and averaged["ema"]["num_updates"] == 12
    assert not torch.equal(averaged["ema"]["model"]["box_head.weight"], averaged["model"]["box_head.weight"])
    metrics = read_metrics(averaged_run)
    assert metrics[7]["bbox/AP"] == metrics[7]["ema/bbox/AP"] == 5.0
    assert "ema/bbox/AP" in json.loads((averaged_run / "evaluations.json").read_text())[-1]


def test_eval_only_takes_the_averaged_weights_by_their_name(averaged_run, tmp_path, capsys):
    path = averaged_run / "model_final.pth"
    model = ToyDetector()
    load_model_weights(model, f"{path}@ema", complete=True)
    assert torch.equal(model.box_head.weight, load(path)["ema"]["model"]["box_head.weight"])
    assert run_toy(tmp_path, f"train.init_checkpoint={path}@ema", eval_only=True) == 0
    line = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert line["checkpoint"] == f"{path}@ema" and line["bbox/AP"] == 5.0


def test_a_checkpoint_without_ema_is_one_clear_error(averaged_run, tmp_path):
    torch.save({"model": ToyDetector().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth@ema: the file holds no EMA weights"):
        load_model_weights(ToyDetector(), str(tmp_path / "a.pth@ema"))
    with pytest.raises(UserError, match="EMA weights are of another model"):
        ModelEMA(ToyDetector(channels=5)).load_state_dict(load(averaged_run / "model_final.pth")["ema"])


def test_switching_the_average_on_or_off_in_a_resumed_run_is_said(tmp_path):
    for name, before, after, said in (
        ("on", [], ["train.ema.enabled=True"], "the average (train.ema) starts from its weights"),
        ("off", ["train.ema.enabled=True"], [], "The checkpoint's averaged weights are left behind"),
    ):
        assert run_toy(tmp_path / name, "+model.interrupt_at=3", *before) == 130
        assert run_toy(tmp_path / name, *after, resume=True) == 0
        assert said in (tmp_path / name / "log.txt").read_text()
    assert load(tmp_path / "on" / "model_final.pth")["ema"]["num_updates"] == 9
