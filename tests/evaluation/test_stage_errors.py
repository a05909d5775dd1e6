"""One hand-made case for every clause of the definitions of fading, exacerbation and recoverable misses."""

import numpy as np
import pytest

from sqr.evaluation.analysis import analyze, best_stage_histogram
from sqr.evaluation.ground_truth import load_coco
from stage_cases import dataset, predictions

OBJECT = (0, 0, 100, 100)
IOU_90 = (0, 0, 90, 100)
IOU_80 = (0, 0, 80, 100)
IOU_60 = (0, 0, 60, 100)
AWAY = (200, 200, 50, 50)


def errors_of(stages, objects=({"box": OBJECT},), iou=0.5, **kwargs):
    coco = load_coco(dataset(list(objects), size=400))
    result = analyze(predictions(stages), coco, rate_ious=(iou,), **kwargs)
    return result.errors[0]


def one(score, box, query=0, label=0):
    return [{"score": score, "box": box, "query": query, "label": label}]


@pytest.mark.parametrize(
    ("earlier", "faded"),
    [
        (one(0.9, IOU_90), True),  # higher score, higher IoU
        (one(0.9, IOU_80), True),  # IoU may be equal
        (one(0.5, IOU_90), False),  # the score must be strictly higher
        (one(0.9, IOU_60), False),  # higher score, lower IoU
        (one(0.4, IOU_90), False),  # higher IoU, lower score
        (one(0.9, IOU_90, label=1), False),  # another class
        (one(0.9, IOU_90, query=1), False),  # another query
    ],
)
def test_fading_needs_same_query_same_class_higher_score_and_no_lower_iou(earlier, faded):
    errors = errors_of([earlier, one(0.5, IOU_80)])
    assert len(errors.true) == 1
    assert len(errors.false) == 0
    assert errors.true.bad.tolist() == [faded]


def test_fading_does_not_match_the_earlier_stage_again():
    # At stage 1 another query takes the object, so query 0 would be a false positive there; it faded all the
    # same.
    first = one(0.8, IOU_90) + one(0.95, OBJECT, query=1)
    errors = errors_of([first, one(0.5, IOU_80)])
    assert errors.true.bad.tolist() == [True]


def test_fading_asks_for_the_same_object():
    objects = [{"box": OBJECT}, {"box": AWAY}]
    errors = errors_of([one(0.9, AWAY), one(0.5, IOU_80)], objects)
    assert errors.true.bad.tolist() == [False]


def test_fading_looks_at_every_earlier_stage():
    errors = errors_of([one(0.7, IOU_90), one(0.9, IOU_80), one(0.1, IOU_90), one(0.5, IOU_80)])
    assert errors.true.hit[:, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(errors.true.score_gain[:, 0], [0.2, 0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(errors.true.iou_gain[:, 0], [0.1, 0.0, 0.0], atol=1e-6)
    assert best_stage_histogram(errors.true).tolist() == [0, 1, 0, 0]


def test_iou_threshold_decides_what_is_a_true_positive():
    stages = [one(0.9, IOU_80), one(0.5, IOU_60)]
    assert len(errors_of(stages, iou=0.5).true) == 1
    assert len(errors_of(stages, iou=0.75).false) == 1


@pytest.mark.parametrize(
    ("earlier", "exacerbated"),
    [
        (one(0.4, AWAY), True),  # a false positive of lower score
        (one(0.5, AWAY), False),  # the score must be strictly lower
        (one(0.6, AWAY), False),
        (one(0.9, OBJECT), True),  # a true positive of any score
        (one(0.1, OBJECT), True),
        (one(0.1, AWAY, label=1), False),  # another class
        (one(0.1, OBJECT, query=1), False),  # another query
    ],
)
def test_exacerbation_needs_an_earlier_true_positive_or_a_lower_false_one(earlier, exacerbated):
    errors = errors_of([earlier, one(0.5, AWAY)])
    assert len(errors.false) == 1
    assert errors.false.bad.tolist() == [exacerbated]


def test_exacerbation_uses_the_earlier_stages_own_matching():
    # Query 0 covers the object at stage 1, but a surer query takes it: query 0 is a false positive of score
    # 0.6.
    first = one(0.6, OBJECT) + one(0.9, OBJECT, query=1)
    errors = errors_of([first, one(0.5, AWAY)])
    assert errors.false.bad.tolist() == [False]
    assert not errors.false.was_true.any()


def test_duplicates_are_false_positives():
    errors = errors_of([one(0.1, AWAY) + one(0.2, AWAY, query=1), one(0.9, OBJECT) + one(0.8, OBJECT, query=1)])
    assert (len(errors.true), len(errors.false)) == (1, 1)
    assert errors.false.bad.tolist() == [True]


def test_crowd_matches_count_nowhere():
    crowd = [{"box": OBJECT, "crowd": 1}]
    errors = errors_of([one(0.9, OBJECT), one(0.5, OBJECT)], crowd)
    assert (len(errors.true), len(errors.false), len(errors.misses.gt)) == (0, 0, 0)
    # An earlier stage on a crowd region neither was right nor wrong, so it does not exacerbate.
    assert errors_of([one(0.1, OBJECT), one(0.5, AWAY)], crowd).false.bad.tolist() == [False]


@pytest.mark.parametrize(("score", "recoverable"), [(0.11, True), (0.09, False)])
def test_a_miss_is_recoverable_when_an_earlier_stage_was_sure_enough(score, recoverable):
    errors = errors_of([one(score, OBJECT, query=3), one(0.9, AWAY)])
    assert errors.misses.found.any(axis=0).tolist() == [recoverable]


def test_detections_beyond_the_limit_take_no_part():
    last = one(0.9, OBJECT) + one(0.5, AWAY, query=1)
    stages = [one(0.1, AWAY) + one(0.05, AWAY, query=1), last]
    assert len(errors_of(stages).false) == 1
    assert len(errors_of(stages, rate_max_dets=1).false) == 0


def test_marginal_cases_are_those_better_by_less_than_epsilon():
    true = errors_of([one(0.53, IOU_80), one(0.5, IOU_80)]).true
    assert true.marginal(0.05).tolist() == [True]
    assert true.marginal(0.01).tolist() == [False]
    by_iou = errors_of([one(0.53, IOU_90), one(0.5, IOU_80)]).true
    assert by_iou.marginal(0.05).tolist() == [False]
    flipped = errors_of([one(0.5, OBJECT), one(0.5, AWAY)]).false
    assert flipped.bad.tolist() == [True]
    assert flipped.marginal(0.05).tolist() == [False]


def test_nothing_to_fade_is_not_zero_percent():
    coco = load_coco(dataset([{"box": OBJECT}], size=400))
    summary = analyze(predictions([[], []]), coco).summary()
    assert summary["rates"][0]["fading"]["rate"] is None
    assert summary["rates"][0]["recoverable_misses"] == {"total": 1, "bad": 0, "rate": 0.0, "by_stage": [0]}


def test_counts_by_class_and_area_add_up():
    objects = [
        {"box": (0, 0, 20, 20)},
        {"box": (100, 0, 60, 60), "label": 1},
        {"box": (200, 0, 150, 150), "label": 1},
    ]
    rows = [{"query": q, "label": o.get("label", 0), "box": o["box"], "score": 0.5} for q, o in enumerate(objects)]
    first = [{**r, "score": 0.6} for r in rows]
    coco = load_coco(dataset(objects, size=400))
    fading = analyze(predictions([first, rows]), coco).summary()["rates"][0]["fading"]
    assert [c["bad"] for c in fading["by_class"]] == [1, 2]
    assert {k: v["bad"] for k, v in fading["by_area"].items()} == {"small": 1, "medium": 1, "large": 1}
    assert fading["by_stage"] == [3]


def test_predictions_without_query_ids_give_ap_only():
    coco = load_coco(dataset([{"box": OBJECT}], size=400))
    result = analyze(predictions([one(0.9, OBJECT, query=-1)]), coco)
    assert result.stages[0]["AP"] == pytest.approx(100.0)
    assert result.oracle is None
    assert result.errors == []


def test_one_query_cannot_predict_the_same_thing_twice():
    with pytest.raises(ValueError, match="query ids must be unique"):
        errors_of([one(0.9, OBJECT) + one(0.8, OBJECT), one(0.5, OBJECT)])
