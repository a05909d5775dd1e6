"""Published key lists through this package's names and back: the same names, shapes and values."""

from __future__ import annotations

import json
import math

import pytest
import torch

from helpers import ROOT
from sqr.checkpoint import convert, convert_back, get_layout
from sqr.checkpoint.inversion import COUNTERS

FIGURES = ROOT / "tests" / "golden" / "figures"
MODELS = {
    "dab_deformable_detr_r50": "dab_deformable_detr",
    "dab_detr_r50": "dab_detr",
    "deformable_detr_r50": "deformable_detr",
    "deformable_detr_r50_refine": "deformable_detr",
    "deformable_detr_r50_twostage": "deformable_detr",
    "detr_r50": "detr",
    "detr_r50_dc5": "detr",
    "detrex_dab_detr_r50": "detrex_dab_detr",
    "detrex_dino_r50": "detrex_dino",
    "detrex_group_detr_r50": "detrex_group_detr",
    "detrex_h_deformable_detr_r50_twostage": "detrex_h_deformable_detr",
    "detrex_sqr_dab_detr_r50": "detrex_dab_detr",
    "dino_r50_4scale": "dino",
    "dino_r50_5scale": "dino",
    "h_deformable_detr_r50_twostage": "h_deformable_detr",
    "sqr_adamixer_r50": "mmdet_adamixer",
    "sqr_deformable_detr_r50_mmdet": "mmdet_deformable_detr",
}


def published(name: str) -> dict[str, torch.Tensor]:
    """The published keys, each with a value of its own (ties share theirs) in its published rank; sizes are 1 or 3."""
    data = json.loads((FIGURES / f"{name}.json").read_text())
    first = {key: group[0] for group in data["ties"] for key in group}
    number = {key: i for i, (key, _) in enumerate(data["keys"])}
    state = {}
    for key, shape in data["keys"]:
        small = [3 if n == 3 else 1 for n in shape]
        start = 100.0 * number[first.get(key, key)]
        state[key] = (torch.arange(math.prod(small)) + start).view(small)
    return state


def test_every_figure_file_is_here():
    assert sorted(MODELS) == sorted(path.stem for path in FIGURES.glob("*.json"))


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name):
    theirs = published(name)
    ours, report = convert(theirs)
    assert report.layout == MODELS[name]
    back = convert_back(ours, report.layout)
    wanted = {k: v for k, v in theirs.items() if not k.endswith(COUNTERS)}
    assert sorted(back) == sorted(wanted)
    for key, value in wanted.items():
        assert torch.equal(back[key], value), key
        assert back[key].dtype == value.dtype


def test_mmdets_neck_has_no_bias():
    """Ours has one, of zeros; a trained one has no place there."""
    ours, _ = convert(published("sqr_deformable_detr_r50_mmdet"))
    biases = [f"encoder.neck.convs.{i}.bias" for i in range(4)]
    assert [k for k in ours if k.startswith("encoder.neck.convs.") and k.endswith("bias")] == biases
    assert not any(ours[k].any() for k in biases)
    ours[biases[2]] = ours[biases[2]] + 1
    with pytest.raises(ValueError, match=r"cannot hold this model: it has no .*neck\.convs\.2\.bias"):
        convert_back(ours, "mmdet_deformable_detr")


def test_detrex_names_of_detr():
    """No figures of it are here, so the names are spelt out, as detrex's modules make them."""
    ours, _ = convert(published("detr_r50"))
    theirs = convert_back(ours, "detrex_detr")
    assert len(theirs) == 458
    layer = {
        *(f"attentions.{i}.attn.{name}" for i in (0, 1) for name in ("in_proj_weight", "in_proj_bias")),
        *(f"attentions.{i}.attn.out_proj.{name}" for i in (0, 1) for name in ("weight", "bias")),
        *(f"ffns.0.layers.{i}.{name}" for i in ("0.0", "1") for name in ("weight", "bias")),
        *(f"norms.{i}.{name}" for i in (0, 1, 2) for name in ("weight", "bias")),
    }
    prefix = "transformer.decoder.layers.5."
    assert {key.removeprefix(prefix) for key in theirs if key.startswith(prefix)} == layer
    prefix = "transformer.encoder.layers.0."
    encoder = {name for name in layer if not name.startswith(("attentions.1", "norms.2"))}
    assert {key.removeprefix(prefix) for key in theirs if key.startswith(prefix)} == encoder
    rest = {
        key for key in theirs if not key.startswith(("transformer.encoder.", "backbone.")) and ".layers." not in key
    }
    assert rest == {
        *(f"transformer.decoder.post_norm_layer.{name}" for name in ("weight", "bias")),
        *(f"{module}.{name}" for module in ("class_embed", "input_proj") for name in ("weight", "bias")),
        "query_embed.weight",
    }
    again, report = convert(theirs | {"criterion.empty_weight": torch.zeros(81)})
    assert report.layout == "detrex_detr" and report.dropped == ["criterion.empty_weight"]
    assert again.keys() == ours.keys() and all(torch.equal(v, ours[k]) for k, v in again.items())


def test_depth_is_the_models_own():
    """Three stages, two of them dropped from the published six, keep their layout's conventions."""
    theirs = {
        key: value
        for key, value in published("dab_detr_r50").items()
        if not key.startswith(tuple(f"transformer.decoder.layers.{i}." for i in (3, 4, 5)))
    }
    ours, _ = convert(theirs)
    assert "decoder.stages.2.norm.weight" in ours and "decoder.stages.3.norm.weight" not in ours
    assert sorted(convert_back(ours, "dab_detr")) == sorted(theirs)


def test_what_a_layout_shares_must_be_shared():
    ours, _ = convert(published("detr_r50"))
    ours["decoder.stages.3.class_embed.bias"] = ours["decoder.stages.3.class_embed.bias"] + 1
    with pytest.raises(ValueError, match=r"detr has one class_embed\.bias for all stages, but decoder\.stages\.0\."):
        convert_back(ours, "detr")


def test_another_detectors_layout_is_an_error_that_names_tensors():
    ours, _ = convert(published("sqr_adamixer_r50"))
    with pytest.raises(ValueError, match=r"tensors have no name in the layout detr: encoder\.neck\."):
        convert_back(ours, "detr")
    with pytest.raises(ValueError, match=r"unknown layout 'detrr'; one of sqr, detr, "):
        convert_back(ours, "detrr")


def test_published_weights_are_not_converted_back():
    with pytest.raises(ValueError, match="the weights are in the layout detr, not in this package's"):
        convert_back(published("detr_r50"), "detr")


def test_files_hold_weights_where_their_own_code_looks():
    assert get_layout("detr").nesting == "model" and get_layout("mmdet_adamixer").nesting == "state_dict"


def test_unknown_file_names_the_nearest_layout_and_what_does_not_fit():
    state = published("dab_detr_r50")
    del state["refpoint_embed.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        convert(state)
    text = str(caught.value)
    assert "the nearest is dab_detr (IDEA-Research/DAB-DETR), but there is no refpoint_embed.weight" in text
    assert "1 of the 590 keys do not belong to it: extra.weight" in text


@pytest.mark.parametrize("layout", [None, "detr"])
def test_a_wrappers_prefix_is_left_out_whether_the_layout_is_named_or_not(layout):
    theirs = published("detr_r50")
    plain, _ = convert(theirs)
    wrapped = {f"model.module.{key}": value for key, value in theirs.items()} | {"loss.weight": torch.zeros(1)}
    ours, report = convert(wrapped, layout)
    assert ours.keys() == plain.keys() and report.prefix == "model.module." and "loss.weight" in report.dropped


def test_missing_keys_are_names_and_not_patterns():
    state = published("sqr_adamixer_r50")
    del state["rpn_head.init_content_features.weight"]
    with pytest.raises(ValueError, match=r"there is no rpn_head\.init_content_features\.weight$"):
        convert(state)


def test_a_recognised_file_with_foreign_keys_is_an_error():
    state = published("detr_r50")
    state |= {f"mask_head.{i}.weight": torch.zeros(1) for i in range(7)}
    with pytest.raises(
        ValueError, match=r"7 of 465 keys do not belong to the layout detr: mask_head\.0\.weight, .*\.\.\."
    ):
        convert(state)
