"""Hugging Face transformers: tiny random models of theirs in ours, and of ours in theirs, on the same padded images."""

from __future__ import annotations

import sys

import pytest
import torch

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.checkpoint import convert, convert_back, detect_layout
from sqr.checkpoint.loading import load_model_weights
from sqr.cli.convert import main
from sqr.errors import UserError

transformers = pytest.importorskip("transformers", reason="the test extra transformers is not installed")

FORMS = {
    "detr": ("Detr", {}),
    "dab_detr": ("DabDetr", {}),
    "deformable_plain": ("DeformableDetr", {}),
    "deformable_refine": ("DeformableDetr", {"with_box_refine": True}),
    "deformable_two_stage": (
        "DeformableDetr",
        {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 7},
    ),
}
BATCH = random_batch([(64, 96), (96, 64)], [0, 0])


def their_config(detector: str, num_labels: int = 5):
    """What small_models.py makes, in their words."""
    family, options = FORMS[detector]
    stages = ["stage2", "stage3", "stage4"] if family == "DeformableDetr" else ["stage4"]
    return getattr(transformers, f"{family}Config")(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=stages,
        ),
        **{"hidden_size" if family == "DabDetr" else "d_model": 32},
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=7,
        num_labels=num_labels,
        dropout=0.0,
        **options,
    )


def their_class(detector: str):
    return getattr(transformers, f"{FORMS[detector][0]}ForObjectDetection")


def their_model(detector: str, num_labels: int = 5):
    torch.manual_seed(0)
    model = their_class(detector)(their_config(detector, num_labels)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "backbone" not in name:
                p.add_(torch.randn_like(p) * 0.1)
        for name, statistics in model.named_buffers():  # frozen batch norm, scale and shift included
            if name.endswith(("weight", "bias", "running_mean", "running_var")):
                statistics.add_(torch.rand_like(statistics) * 0.1)
    return model


def our_model(detector: str, num_classes: int = 5, seed: int = 7):
    cfg = small_config(detector, "sequential", num_stages=2)
    cfg.num_classes = num_classes
    if "deformable" in detector:
        cfg.encoder.neck.num_norm_groups = 32  # theirs cannot be changed
    return lively(build(cfg, seed=seed)).eval()


def assert_same_outputs(theirs, ours):
    images, mask = ours.preprocess(BATCH)
    assert mask.any(), "the images must be padded"
    with torch.no_grad():
        expected = theirs(pixel_values=images, pixel_mask=(~mask).long())
        last = ours.decode(ours.encode(BATCH))[0][-1]
    assert expected.logits.std() > 0.01 and expected.pred_boxes.std() > 0.01
    torch.testing.assert_close(last.logits[:, 0], expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.boxes[:, 0], expected.pred_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("detector", FORMS)
def test_their_file_in_our_model(tmp_path, detector):
    """Their state dict is the same, though version 5 names modules otherwise than its files and lists ties twice."""
    theirs, ours = their_model(detector), our_model(detector)
    theirs.save_pretrained(tmp_path)
    report = load_model_weights(ours, str(tmp_path / "model.safetensors"), complete=True)
    assert not report.missing and not report.unexpected
    assert_same_outputs(theirs, ours)
    from_state, converted = convert(theirs.state_dict())
    assert converted.layout.endswith("_own_resnet") and len(from_state) == len(report.loaded)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in from_state.items())


@pytest.mark.parametrize("detector", FORMS)
def test_our_file_in_their_model(tmp_path, detector, capsys):
    ours = our_model(detector)
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    layout = f"transformers_{'deformable_detr' if 'deformable' in detector else detector}_own_resnet"
    assert main(["back", str(tmp_path / "ours.pth"), str(tmp_path / "model.safetensors"), "--layout", layout]) == 0
    their_config(detector).save_pretrained(tmp_path)
    theirs, info = their_class(detector).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same_outputs(theirs.eval(), ours)


def test_safetensors_out(tmp_path):
    ours = our_model("deformable_plain")  # its stages share their heads
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    assert main(["convert", str(tmp_path / "ours.pth"), str(tmp_path / "ours.safetensors")]) == 0
    again = our_model("deformable_plain", seed=8)
    load_model_weights(again, str(tmp_path / "ours.safetensors"), complete=True)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(("detector", "wrapper"), [("detr", ""), ("dab_detr", "_backbone."), ("deformable_plain", "")])
def test_published_files_have_timms_backbone(detector, wrapper):
    """timm is not needed: its names are torchvision's."""
    ours = our_model(detector).state_dict()
    layout = f"transformers_{'deformable_detr' if 'deformable' in detector else detector}"
    theirs = convert_back(ours, layout)
    prefix = f"model.backbone.conv_encoder.model.{wrapper}"
    assert {f"{prefix}conv1.weight", f"{prefix}layer1.0.bn1.running_var"} <= theirs.keys()
    assert f"{prefix}layer2.0.downsample.0.weight" in theirs and detect_layout(theirs) == layout
    again, _ = convert(theirs)
    assert all(torch.equal(value, ours[key]) for key, value in again.items())


def test_91_labels_serve_80_classes(tmp_path):
    theirs, ours = their_model("detr", num_labels=91), our_model("detr", num_classes=80)
    theirs.save_pretrained(tmp_path)
    report = load_model_weights(ours, str(tmp_path / "model.safetensors"), complete=True)
    assert len(report.heads.matched) == 4 and not report.heads.dropped


def test_what_does_not_fit_is_named(tmp_path, monkeypatch):
    state = their_model("detr").state_dict()
    with pytest.raises(ValueError, match=r"1 of \d+ keys do not belong to .*: bbox_attention\.weight"):
        convert(state | {"bbox_attention.weight": torch.zeros(1)})
    del state["model.encoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(
        ValueError, match=r"encoder\.layers\.0\.self_attn\.in_proj_bias needs 3 tensors .* only .*q_proj"
    ):
        convert(state)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"broken\.safetensors is not a readable checkpoint"):
        load_model_weights(our_model("detr"), str(tmp_path / "broken.safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        load_model_weights(our_model("detr"), str(tmp_path / "broken.safetensors"))
