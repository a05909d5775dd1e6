"""Thresholds, precision, recall and F1 as counted from pycocotools' matches; the confusion matrix by hand."""

import numpy as np
import pytest

import stage_brute_force as brute_force
from sqr.evaluation import analyze
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.operating_figures import draw_confusion, draw_training
from sqr.evaluation.storage import to_coco_results
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions
from stage_cases import dataset, predictions


def test_curves_are_those_of_pycocotools_matches():
    data, rng = synthetic_dataset(num_images=30, num_classes=3, seed=5)
    made = synthetic_predictions(data, rng, num_stages=2, num_queries=40)
    made.detections[-1].score[:] = np.round(made.detections[-1].score, 2)  # equal scores
    coco = load_coco(data)
    found = brute_force.coco_eval(coco, to_coco_results(made.detections[-1], made))
    for k, curve in enumerate(analyze(made, coco).operating_curves()):
        of_class = [e for e in found.evalImgs if e and e["category_id"] == made.category_ids[k]]
        images = [e for e in of_class if list(e["aRng"]) == [0, 1e10]]
        scores = np.concatenate([e["dtScores"] for e in images])
        counted = ~np.concatenate([e["dtIgnore"][0] for e in images]).astype(bool)
        right = np.concatenate([e["dtMatches"][0] for e in images]) > 0
        objects = sum(int((~np.asarray(e["gtIgnore"], dtype=bool)).sum()) for e in images)
        f1 = []
        for threshold in np.unique(scores[counted])[::-1]:
            above = counted & (scores >= threshold)
            f1.append(2 * (above & right).sum() / (above.sum() + objects))
        best = curve.best()
        assert curve.f1.max() == pytest.approx(max(f1)) == best["f1"]
        above = counted & (scores >= best["threshold"])
        assert best["precision"] == pytest.approx((above & right).sum() / above.sum())
        assert best["recall"] == pytest.approx((above & right).sum() / objects)


@pytest.fixture
def analysis():
    """Class 0's objects are found, taken for class 1 and missed; a crowd and an empty place are detected too."""
    objects = [
        {"box": (0, 0, 20, 20)},
        {"box": (30, 0, 20, 20)},
        {"box": (60, 0, 20, 20)},
        {"box": (0, 60, 40, 40), "label": 1},
        {"box": (50, 50, 50, 50), "label": 1, "crowd": 1},
    ]
    rows = [
        {"query": 0, "score": 0.9, "box": (0, 0, 20, 20)},
        {"query": 1, "score": 0.8, "box": (30, 0, 20, 20), "label": 1},
        {"query": 2, "score": 0.7, "box": (0, 60, 40, 40), "label": 1},
        {"query": 3, "score": 0.95, "box": (60, 60, 20, 20), "label": 1},  # on the crowd
        {"query": 4, "score": 0.75, "box": (70, 25, 20, 20), "label": 1},
        {"query": 5, "score": 0.2, "box": (60, 0, 20, 20), "label": 1},  # below the threshold
    ]
    return analyze(predictions([rows]), load_coco(dataset(objects)))


def test_who_is_taken_for_whom(analysis):
    summary = analysis.summary()["operating_points"]
    assert summary["by_class"][0] == {"threshold": pytest.approx(0.9), "precision": 1.0, "recall": 1 / 3, "f1": 0.5}
    assert summary["by_class"][1]["threshold"] == pytest.approx(0.7)
    assert summary["confusion"] == [[1, 1, 1], [0, 1, 0], [0, 1, 0]]


def test_a_class_without_objects_or_detections_has_no_threshold():
    result = analyze(predictions([[{"score": 0.9, "box": (0, 0, 9, 9)}]]), load_coco(dataset([])))
    assert [c.best()["threshold"] for c in result.operating_curves()] == [None, None]
    assert result.confusion().sum() == 0


def test_pictures_show_the_numbers(analysis):
    (axis,) = draw_confusion({"model": analysis}).axes
    assert [t.get_text() for t in axis.texts] == ["1", "1", "1", "1", "1"]
    rows = [{"iteration": n, "total_loss": 3.0 - n} for n in range(3)] + [{"iteration": 2, "bbox/AP": 41.0}]
    loss, precision = draw_training(rows).axes
    assert loss.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0] and precision.lines[0].get_ydata().tolist() == [41.0]
    assert draw_training([{"iteration": 1}]) is None
