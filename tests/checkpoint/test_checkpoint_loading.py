"""Initial weights of every origin, and one clear line for each that does not fit."""

import argparse
import collections
import datetime
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from omegaconf import OmegaConf
from torch import nn

from engine_toys import ToyDetector
from sqr.checkpoint.loading import load_model_weights
from sqr.errors import UserError


class WithResNet(nn.Module):
    """A ResNet-18 below ``backbone`` and a head."""

    def __init__(self):
        super().__init__()
        stages = ResNet.make_default_stages(18, norm="FrozenBN")
        self.backbone = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"])
        self.head = nn.Linear(512, 3)


def prefixed(prefix, **beside):
    return {f"{prefix}{k}": v for k, v in ToyDetector().state_dict().items()} | beside


class AttributeDict(dict):
    """As Lightning's hyper-parameters."""


AttributeDict.__module__ = "lightning.fabric.utilities.data"
SAFE = {
    "args": argparse.Namespace(lr=1, out=pathlib.PurePosixPath("a/b")),
    "path": pathlib.PosixPath("/x/y"),
    "windows": pathlib.PureWindowsPath("c:/x"),
    "counts": collections.defaultdict(int, {"a": 1}),
    "lists": collections.defaultdict(list, {"a": [collections.deque([1, 2], 3)]}),
    "numbers": [np.float64(0.5), np.int64(3), np.bool_(True), np.float32(1)],
    "array": np.arange(3),
    "when": datetime.datetime(2024, 1, 1),
    "config": OmegaConf.create({"a": [1, 2.0, "x", None], "b": True}),
    "hparams": AttributeDict(lr=1),
    "version": torch.torch_version.TorchVersion("2.0"),
}
FILES = {
    "this_package": lambda: {"model": prefixed(""), "trainer": {"iteration": 3}},
    "plain": lambda: prefixed(""),
    "ddp": lambda: {"state_dict": prefixed("module.")},
    "ddp_in_ddp": lambda: prefixed("module.module."),
    "compiled": lambda: {"model": prefixed("_orig_mod.")},
    "compiled_part": lambda: {k.replace("box_head", "box_head._orig_mod"): v for k, v in prefixed("").items()},
    "ddp_compiled": lambda: {"model_state_dict": prefixed("module._orig_mod.")},
    "compiled_ddp": lambda: {"net": prefixed("_orig_mod.module.")},
    "lightning": lambda: {"state_dict": prefixed("model.", metric=torch.zeros(1)), "epoch": 3},
    "lightning_ddp_compiled": lambda: {"state_dict": prefixed("model.module._orig_mod.")},
    "ema_only": lambda: {"ema": {"module": prefixed(""), "updates": 3}},
    "averaged": lambda: {"model_ema": prefixed("module.", n_averaged=torch.tensor(7))},
    "nested": lambda: {"state_dict": {"model": prefixed("")}},
    "safe_types": lambda: {"model": prefixed(""), **SAFE},
}


@pytest.mark.parametrize("kind", FILES)
def test_files_as_trainings_save_them(tmp_path, kind, monkeypatch):
    lightning = types.SimpleNamespace(AttributeDict=AttributeDict)
    for depth in range(1, 5):
        monkeypatch.setitem(sys.modules, ".".join(AttributeDict.__module__.split(".")[:depth]), lightning)
    torch.manual_seed(5)
    state = FILES[kind]()
    torch.save(state, tmp_path / "a.pth")
    target = ToyDetector()
    report = load_model_weights(target, str(tmp_path / "a.pth"), complete=True)
    assert len(report.loaded) == len(target.state_dict()) and not report.missing
    assert report.unexpected == (["metric"] if kind == "lightning" else [])
    torch.manual_seed(5)
    assert torch.equal(target.box_head.weight, ToyDetector().box_head.weight)


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "model._orig_mod."])
def test_wrapped_published_weights_are_recognised(tmp_path, prefix):
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    state = {f"{prefix}{k}": v for k, v in resnet.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.zeros(3)}}, tmp_path / "a.pth")
    model = WithResNet()
    report = load_model_weights(model, str(tmp_path / "a.pth"))
    assert sorted(report.missing) == ["head.bias", "head.weight"] and report.unexpected == ["loss.weight"]
    assert torch.equal(model.backbone.stem.conv1.weight, resnet.conv1.weight)


def test_what_is_refused_is_named_with_what_to_do_here(tmp_path):
    torch.save({"model": ToyDetector().state_dict(), "scheduler": nn.Linear(1, 1)}, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        load_model_weights(ToyDetector(), str(tmp_path / "a.pth"))
    text = str(caught.value)
    assert "it holds a torch.nn.modules.linear.Linear, which is not known to be data" in text
    assert "save its tensors alone: torch.save(model.state_dict(), 'weights.pth')" in text
    assert "weights_only" not in text and "add_safe_globals" not in text


def test_averaged_weights_of_other_trainers(tmp_path):
    torch.manual_seed(6)
    torch.save({"model": prefixed(""), "model_ema": prefixed("module.")}, tmp_path / "a.pth")
    torch.manual_seed(6)
    ToyDetector()
    expected, target = ToyDetector(), ToyDetector()
    load_model_weights(target, f"{tmp_path / 'a.pth'}@ema", complete=True)
    assert torch.equal(target.box_head.weight, expected.box_head.weight)


def test_torchvision_resnet_goes_into_the_backbone(tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.resnet18().eval()
    for name, buffer in source.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = WithResNet().eval()
    report = load_model_weights(model, str(tmp_path / "resnet18.pth"))
    assert sorted(report.missing) == ["head.bias", "head.weight"] and not report.unexpected
    image = torch.rand(1, 3, 64, 64)
    x = source.maxpool(source.relu(source.bn1(source.conv1(image))))
    for layer in (source.layer1, source.layer2, source.layer3, source.layer4):
        x = layer(x)
    torch.testing.assert_close(model.backbone(image)["res5"], x, rtol=1e-4, atol=1e-4)


def test_detectron2_pkl_with_name_matching(tmp_path):
    source = WithResNet()
    arrays = {k: v.numpy() for k, v in source.backbone.state_dict().items()}
    arrays["stem.fc.weight"] = np.zeros((10, 512), np.float32)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    model = WithResNet()
    report = load_model_weights(model, str(tmp_path / "R-18.pkl"))
    assert report.unexpected == ["stem.fc.weight"] and sorted(report.missing) == ["head.bias", "head.weight"]
    for a, b in zip(model.backbone.parameters(), source.backbone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_empty_means_random_weights():
    assert load_model_weights(ToyDetector(), "").loaded == []


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def write(folder, kind):
    path, state = folder / "w.pth", ToyDetector().state_dict()
    if kind == "shape":
        state["box_head.weight"] = torch.zeros(5, 6)
    elif kind == "partial":
        del state["box_head.weight"]
    elif kind == "other":
        state = {"box_head.bias": torch.zeros(4), "x.y.z": torch.zeros(1), "x.y.w": torch.zeros(1)}
    elif kind == "unknown":
        state = {"some.thing": torch.zeros(1)}
    elif kind == "list":
        state = [1, 2]
    elif kind == "empty":
        state = {"model": {}}
    elif kind == "evil":
        state = {"model": Evil()}
    elif kind == "evil_pkl":
        path = folder / "w.pkl"
        path.write_bytes(pickle.dumps({"model": Evil()}))
        return str(path)
    elif kind == "garbage":
        path.write_bytes(b"not a checkpoint")
        return str(path)
    elif kind == "missing":
        return str(path)
    elif kind == "url":
        return "http://127.0.0.1:9/weights.pth"
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "complete", "message"),
    [
        ("missing", False, r"no such file; set train\.init_checkpoint= \(empty\)"),
        (
            "url",
            False,
            r"cannot be fetched \(.*\); give a local path, or set train\.init_checkpoint= \(empty\)",
        ),
        ("garbage", False, "is not a readable checkpoint"),
        ("evil", False, r"is not a readable checkpoint: it holds a builtins\.print"),
        ("evil_pkl", False, r"is not a readable checkpoint: it holds a builtins\.print"),
        ("list", False, "holds a list, not a dict"),
        ("empty", False, "holds no tensors"),
        (
            "shape",
            False,
            r"1 tensors of another shape: box_head\.weight is \(5, 6\) in the file and \(4, 6\) in",
        ),
        (
            "other",
            False,
            r"for another model: 1 of its 3 tensors have a place in this one, x\.y \(2\) have none",
        ),
        ("partial", True, r"is not a whole model: 1 tensors are missing: box_head\.weight \(1\)"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path, capfd, kind, complete, message):
    with pytest.raises(UserError, match=message):
        load_model_weights(ToyDetector(), write(tmp_path, kind), complete=complete)
    assert "executed" not in capfd.readouterr().out


def test_part_of_a_model_is_fine_for_training(tmp_path):
    report = load_model_weights(ToyDetector(), write(tmp_path, "partial"))
    assert report.missing == ["box_head.weight"]


def test_only_the_named_modules_are_taken(tmp_path):
    source = ToyDetector()
    torch.save({"model": source.state_dict()}, tmp_path / "a.pth")
    target = ToyDetector()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    report = load_model_weights(target, str(tmp_path / "a.pth"), modules=["box_head"])
    assert sorted(report.loaded) == ["box_head.bias", "box_head.weight"]
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key] if key in report.loaded else before[key])
    with pytest.raises(UserError, match=r"train\.init_modules names 'neck', but .*a\.pth has only: .*box_head"):
        load_model_weights(target, str(tmp_path / "a.pth"), modules=["neck"])


def test_torchvision_weights_without_a_resnet_to_load_into(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r.pth")
    with pytest.raises(UserError, match="is a torchvision ResNet, but the model has 0 ResNets"):
        load_model_weights(ToyDetector(), str(tmp_path / "r.pth"))


def test_a_batchnorm_model_loads_its_own_checkpoint_whole(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model(torch.rand(2, 3, 4, 4))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    report = load_model_weights(other, str(tmp_path / "model.pth"), complete=True)
    assert not report.missing and not report.unexpected
    assert other[1].num_batches_tracked == 1


def test_several_sources_each_add_what_those_before_lack(tmp_path):
    first, second = ToyDetector(), ToyDetector()
    torch.save({k: v for k, v in first.state_dict().items() if k.startswith("backbone")}, tmp_path / "a.pth")
    heads = second.state_dict()
    heads["box_head.bias"] = torch.zeros(9)  # of another shape: left out
    torch.save(heads, tmp_path / "b.pth")
    target = ToyDetector()
    both = f"{tmp_path / 'a.pth'} + {tmp_path / 'b.pth'}"
    report = load_model_weights(target, both)
    assert report.missing == ["box_head.bias"] and not report.unexpected
    expected = {**second.state_dict(), **torch.load(tmp_path / "a.pth")}
    for name, tensor in target.state_dict().items():
        assert name == "box_head.bias" or torch.equal(tensor, expected[name]), name
    with pytest.raises(UserError, match=r"a\.pth adds no tensor that the model has; leave it out"):
        load_model_weights(target, f"{tmp_path / 'b.pth'} + {tmp_path / 'a.pth'}")
