"""Published files of 91 COCO ids in models of 80 classes, and fine-tuning to other classes."""

from __future__ import annotations

import logging

import pytest
import torch

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.checkpoint import convert_back
from sqr.checkpoint.class_heads import COCO_CATEGORY_IDS, fit_class_heads
from sqr.checkpoint.loading import load_model_weights
from sqr.errors import UserError

LAYOUTS = {
    "detr": "detr",
    "dab_detr": "dab_detr",
    "deformable_two_stage": "deformable_detr",
    "adamixer": "mmdet_adamixer",
}


def model_of(detector: str, num_classes: int, seed: int = 0):
    cfg = small_config(detector, "sequential", num_stages=2)
    cfg.num_classes = num_classes
    return lively(build(cfg, seed=seed)).eval()


def published_file(tmp_path, model, detector: str) -> str:
    torch.save({"model": convert_back(model.state_dict(), LAYOUTS[detector])}, tmp_path / "published.pth")
    return str(tmp_path / "published.pth")


def test_the_ids_are_cocos():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    assert tuple(c["id"] for c in COCO_CATEGORIES if c["isthing"]) == COCO_CATEGORY_IDS


@pytest.mark.parametrize("detector", LAYOUTS)
def test_91_ids_serve_80_classes(tmp_path, detector, caplog):
    """The same boxes, and of the same logits the rows of COCO's categories; "no object" stays last."""
    theirs, ours = model_of(detector, 91), model_of(detector, 80, seed=3)
    caplog.set_level(logging.INFO, logger="sqr")
    report = load_model_weights(ours, published_file(tmp_path, theirs, detector), complete=True)
    assert all(".class_embed." in key for key in report.picked) and len(report.picked) == 4
    assert len(report.resized) == (2 if detector == "deformable_two_stage" else 0) and not report.reinitialised
    assert "rows of COCO's 80 categories picked from 91 ids: decoder.stages.*.class_embed" in caplog.text
    rows = [*COCO_CATEGORY_IDS, *([91] if detector == "detr" else [])]
    batch = random_batch([(64, 96)], [0])
    with torch.no_grad():
        for a, b in zip(*(m.decode(m.encode(batch))[0] for m in (theirs, ours)), strict=True):
            torch.testing.assert_close(b.logits, a.logits[..., rows])
            torch.testing.assert_close(b.boxes, a.boxes)


@pytest.mark.parametrize("detector", ["detr", "deformable_two_stage"])
def test_other_classes_start_anew_and_nothing_else(tmp_path, detector, caplog):
    theirs, ours = model_of(detector, 91), model_of(detector, 6, seed=3)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    source = published_file(tmp_path, theirs, detector)
    message = r"of another shape: .*decoder\.stages\.\d\.class_embed\.weight is \(9[12], 32\)"
    with pytest.raises(UserError, match=message):
        load_model_weights(ours, source, complete=True)
    caplog.set_level(logging.INFO, logger="sqr")
    report = load_model_weights(ours, source)
    heads = {k for k in before if k.startswith("decoder.") and ".class_embed." in k}
    assert set(report.reinitialised) == heads and not report.missing and not report.unexpected
    assert "other classes than the file's, initialised anew: decoder.stages.*.class_embed (4 tensors)" in caplog.text
    for key, value in ours.state_dict().items():
        if key in heads:
            assert torch.equal(value, before[key]), key
        elif key not in report.resized:
            assert torch.equal(value, theirs.state_dict()[key]), key


def test_a_proposal_scorer_keeps_its_row_0():
    head = torch.arange(6.0).view(3, 2)
    for rows in (2, 5):
        key = "query_generator.class_embed.weight"
        fitted, changes = fit_class_heads({key: head}, {key: torch.zeros(rows, 2)}, rows)
        assert changes.resized == [key] and torch.equal(fitted[key][0], head[0]) and len(fitted[key]) == rows


def test_heads_of_another_width_stay_an_error():
    weights = {"decoder.stages.0.class_embed.weight": torch.zeros(91, 32)}
    fitted, changes = fit_class_heads(weights, {"decoder.stages.0.class_embed.weight": torch.zeros(80, 16)}, 80)
    assert fitted == weights and not changes.picked and not changes.dropped


def test_a_detrex_file_is_taken_directly(tmp_path):
    """Its backbone has this package's names already, the rest has not."""
    theirs, ours = model_of("dab_detr", 80), model_of("dab_detr", 80, seed=3)
    torch.save({"model": convert_back(theirs.state_dict(), "detrex_dab_detr")}, tmp_path / "detrex.pth")
    load_model_weights(ours, str(tmp_path / "detrex.pth"), complete=True)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


def test_an_unknown_file_is_one_line_that_names_the_nearest_layout(tmp_path):
    state = convert_back(model_of("detr", 80).state_dict(), "detr")
    del state["query_embed.weight"]
    torch.save(state | {"mask.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError) as caught:
        load_model_weights(model_of("adamixer", 80), str(tmp_path / "other.pth"))
    text = str(caught.value)
    assert "\n" not in text
    assert "the nearest is detr (facebookresearch/detr), but there is no query_embed.weight" in text
    assert text.endswith("keys do not belong to it: mask.weight")
