"""Hand-made cases of the oracle: which score a detection gets from its best stage."""

import numpy as np
import pytest

from sqr.evaluation.ground_truth import from_coco
from sqr.evaluation.matching import match
from sqr.evaluation.oracle import oracle_scores
from stage_cases import dataset, table

OBJECT = (0, 0, 100, 100)
IOU_60 = (0, 0, 60, 100)
AWAY = (200, 200, 50, 50)


def best(stages, ious=(0.5, 0.75)):
    gt = from_coco(dataset([{"box": OBJECT}], size=400))
    tables = [table(rows) for rows in stages]
    return oracle_scores(tables, [match(t, gt, ious=ious) for t in tables], gt)[:, 0].tolist()


def one(score, box, query=0, label=0):
    return [{"score": score, "box": box, "query": query, "label": label}]


def test_a_true_positive_takes_its_highest_score_of_sufficient_iou():
    stages = [one(0.9, IOU_60), one(0.7, OBJECT), one(0.5, OBJECT)]
    assert best(stages) == pytest.approx([0.9, 0.7])  # 0.9 has IoU 0.6: enough at 0.5, not at 0.75


def test_an_iou_equal_to_the_threshold_suffices():
    assert best([one(0.9, (0, 0, 50, 100)), one(0.4, OBJECT)], ious=(0.5,)) == pytest.approx([0.9])


def test_a_true_positive_never_loses_score():
    assert best([one(0.1, OBJECT), one(0.5, OBJECT)]) == pytest.approx([0.5, 0.5])


def test_a_false_positive_takes_its_lowest_score_as_a_false_positive():
    assert best([one(0.2, AWAY), one(0.3, AWAY), one(0.5, AWAY)]) == pytest.approx([0.2, 0.2])


def test_a_false_positive_does_not_become_a_true_one():
    assert best([one(0.2, OBJECT), one(0.5, AWAY)]) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("other", [{"query": 1}, {"label": 1}])
def test_only_the_same_query_and_class_count(other):
    assert best([one(0.9, OBJECT, **other), one(0.5, OBJECT)]) == pytest.approx([0.5, 0.5])


def test_one_query_may_predict_several_classes():
    stages = [one(0.9, OBJECT) + one(0.1, OBJECT, label=1), one(0.5, OBJECT) + one(0.4, OBJECT, label=1)]
    gt = from_coco(dataset([{"box": OBJECT}], size=400))
    tables = [table(rows) for rows in stages]
    scores = oracle_scores(tables, [match(t, gt, ious=(0.5,)) for t in tables], gt)
    np.testing.assert_allclose(scores, [[0.9, 0.1]], atol=1e-6)
