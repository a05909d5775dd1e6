"""The fast analysis equals literal implementations and pycocotools on random small cases."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import stage_brute_force as brute_force
from sqr.evaluation.analysis import analyze
from sqr.evaluation.average_precision import COCO_IOUS
from stage_cases import random_cases

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(random_cases())
def test_rates_equal_the_literal_definition(case):
    coco, predictions = case
    result = analyze(predictions, coco, rate_ious=(0.5, 0.75))
    for errors in result.errors:
        expected = brute_force.rates(coco, predictions, errors.iou)
        recoverable = errors.misses.found.any(axis=0).sum() if len(errors.misses.found) else 0
        assert expected == {
            "tp": len(errors.true),
            "faded": errors.true.bad.sum(),
            "fp": len(errors.false),
            "exacerbated": errors.false.bad.sum(),
            "fn": len(errors.misses.gt),
            "recoverable": recoverable,
        }


@relaxed
@given(random_cases())
def test_every_stage_equals_pycocotools(case):
    coco, predictions = case
    result = analyze(predictions, coco)
    for s, metrics in enumerate(result.stages):
        results = brute_force.results_of(predictions, "detections", s)
        if not results:
            continue
        stats = brute_force.coco_eval(coco, results).stats
        got = [metrics[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        want = [x * 100 if x >= 0 else float("nan") for x in stats[:6]]
        np.testing.assert_array_equal(got, want)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_cases())
def test_oracle_equals_the_literal_definition(case):
    coco, predictions = case
    expected = brute_force.oracle_ap(coco, predictions, COCO_IOUS)
    assert analyze(predictions, coco).oracle["AP"] == pytest.approx(100 * expected, abs=1e-9, nan_ok=True)
