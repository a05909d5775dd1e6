"""Published files of 91 COCO ids in models of 80 classes, and fine-tuning to other classes."""

from __future__ import annotations

import logging

import pytest
import torch

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.checkpoint import convert_back
from sqr.checkpoint.class_heads import COCO_NAMES, fit_class_heads
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


@pytest.mark.parametrize("detector", LAYOUTS)
def test_91_ids_serve_80_classes(tmp_path, detector, caplog):
    """The same boxes, and of the same logits the rows of COCO's categories; "no object" stays last."""
    theirs, ours = model_of(detector, 91), model_of(detector, 80, seed=3)
    caplog.set_level(logging.INFO, logger="sqr")
    report = load_model_weights(ours, published_file(tmp_path, theirs, detector), complete=True)
    heads = report.heads
    assert all(".class_embed." in key for key in heads.matched) and len(heads.matched) == 4
    assert len(heads.resized) == (2 if detector == "deformable_two_stage" else 0) and not heads.dropped
    assert "rows taken by the names of the classes: decoder.stages.*.class_embed" in caplog.text
    rows = [*COCO_NAMES, *([91] if detector == "detr" else [])]
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
    assert set(report.heads.dropped) == heads and not report.missing and not report.unexpected
    assert "other classes than the file's, initialised anew: decoder.stages.*.class_embed (4 tensors)" in caplog.text
    for key, value in ours.state_dict().items():
        if key in heads:
            assert torch.equal(value, before[key]), key
        elif key not in report.heads.resized:
            assert torch.equal(value, theirs.state_dict()[key]), key


def test_a_proposal_scorer_keeps_its_row_0():
    head = torch.arange(6.0).view(3, 2)
    for rows in (2, 5):
        key, other = "query_generator.class_embed.weight", {"query_generator.pos_trans.weight": torch.zeros(1)}
        fitted, changes = fit_class_heads({key: head} | other, {key: torch.zeros(rows, 2)} | other, rows)
        assert changes.resized == [key] and torch.equal(fitted[key][0], head[0]) and len(fitted[key]) == rows


HEAD, LABELS = "decoder.stages.0.class_embed.weight", "query_generator.denoising.label_embed.weight"


@pytest.mark.parametrize(
    ("file", "model", "complete", "rows", "new", "anew"),
    [
        ("abc", "cab", True, [2, 0, 1], "", False),  # another order
        ("abc", "xyz", False, None, "", True),  # the same number of other classes
        ("abc", "xyz", True, [0, 1, 2], "", False),  # an evaluation: by position, aloud
        ("abc", "xcyb", False, [None, 2, None, 1], "xy", False),  # some in both
        ("abc", "b", True, [1], "", False),  # an evaluation of some of them
        ("aba", "ba", True, [1, 0], "", False),  # a name twice
        (None, "xyz", False, [0, 1, 2], "", False),  # nothing is known
        ("ab", "xyz", False, [0, 1, 2], "", False),  # not this head's classes
    ],
)
@pytest.mark.parametrize("no_object", [0, 1])
def test_rows_are_taken_by_the_names_of_classes(file, model, complete, rows, new, anew, no_object):
    """Also of denoising's table, whose row after the classes is its own."""
    weights = {HEAD: torch.arange(3.0 + no_object)[:, None], LABELS: torch.arange(4.0)[:, None]}
    target = {HEAD: torch.full((len(model) + no_object, 1), -1.0), LABELS: torch.full((len(model) + 1, 1), -1.0)}
    fitted, changes = fit_class_heads(
        weights, target, len(model), file_classes=file, model_classes=model, complete=complete
    )
    if anew:
        assert not fitted and changes.dropped == [HEAD, LABELS]
        return
    expected = [-1.0 if row is None else row for row in rows]
    assert fitted[HEAD].flatten().tolist() == expected + [3.0] * no_object
    assert fitted[LABELS].flatten().tolist() == [*expected, 3.0]
    assert changes.new_classes == list(new) and not changes.dropped
    assert changes.differing == ("'a' in the file is 'x' here" if complete and model == "xyz" else "")


def test_dinos_scorer_and_labels_are_rows_of_classes_too():
    """It ranks proposals by their best class, where Deformable DETR's two-stage form uses row 0."""
    keys = (HEAD, "query_generator.class_embed.bias", LABELS)
    weights = {key: torch.arange(92.0 if key == LABELS else 91.0).view(-1, *[1] * (key != keys[1])) for key in keys}
    target = {key: torch.zeros(81 if key == LABELS else 80, *[1] * (key != keys[1])) for key in keys}
    fitted, changes = fit_class_heads(weights, target, 80, complete=True)
    assert changes.matched == list(keys) and not changes.resized
    assert fitted[keys[1]].tolist() == list(COCO_NAMES)
    assert fitted[LABELS].flatten().tolist() == [*COCO_NAMES, 91]


def test_a_permuted_class_list_evaluates_as_before(tmp_path, caplog):
    """The names that a training stores decide: the same scores for the same names; other names start anew, by name."""
    theirs, ours = model_of("adamixer", 3), model_of("adamixer", 3, seed=3)
    torch.save({"model": theirs.state_dict(), "about": {"class_names": ["a", "b", "c"]}}, tmp_path / "run.pth")
    source = str(tmp_path / "run.pth")
    report = load_model_weights(ours, source, complete=True, class_names=["c", "a", "b"])
    assert sorted(report.heads.matched) == [
        f"decoder.stages.{i}.class_embed.3.{n}" for i in (0, 1) for n in ("bias", "weight")
    ]
    batch = random_batch([(64, 96)], [0])
    with torch.no_grad():
        a, b = (m.decode(m.encode(batch))[0][-1].logits for m in (theirs, ours))
    torch.testing.assert_close(b, a[..., [2, 0, 1]])
    caplog.set_level(logging.INFO, logger="sqr")
    load_model_weights(ours, source, class_names=["star", "a", "ring"])
    assert "rows taken by the names of the classes, those of star, ring initialised anew: decoder.stages" in caplog.text
    total = sum("num_batches_tracked" not in key for key in ours.state_dict())
    assert f"Loaded {total} of the model's {total} tensors" in caplog.text


def test_heads_of_another_width_stay_an_error():
    weights = {"decoder.stages.0.class_embed.weight": torch.zeros(91, 32)}
    fitted, changes = fit_class_heads(weights, {"decoder.stages.0.class_embed.weight": torch.zeros(80, 16)}, 80)
    assert fitted == weights and not changes.matched and not changes.dropped


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
