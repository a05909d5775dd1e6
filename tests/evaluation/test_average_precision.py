"""AP equals pycocotools in its corner cases, and weighting an image is repeating it."""

import numpy as np
import pytest

import stage_brute_force as brute_force
from sqr.evaluation.analysis import analyze
from sqr.evaluation.average_precision import mean_precision, precision_at_recalls
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.storage import to_coco_results
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions
from stage_cases import dataset, predictions

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def test_every_number_equals_pycocotools_on_a_larger_set():
    data, rng = synthetic_dataset(num_images=40, num_classes=5)
    made = synthetic_predictions(data, rng, num_stages=3, num_queries=60)
    coco = load_coco(data)
    for table, got in zip(made.detections, analyze(made, coco).stages, strict=True):
        want = brute_force.coco_eval(coco, to_coco_results(table, made))
        assert [got[m] for m in METRICS] == [x * 100 for x in want.stats[:6]]
        per_class = [np.mean(want.eval["precision"][:, :, k, 0, -1]) * 100 for k in range(5)]
        assert got["per_class"] == per_class


@pytest.mark.parametrize("annotation_id", [0, 7])
def test_annotation_id_zero_is_read_as_pycocotools_reads_it(annotation_id):
    coco = load_coco(dataset([{"box": (0, 0, 50, 50), "id": annotation_id}]))
    made = predictions([[{"score": 0.9, "box": (0, 0, 50, 50)}]])
    want = brute_force.coco_eval(coco, brute_force.results_of(made, "detections", 0)).stats[0] * 100
    assert analyze(made, coco).stages[0]["AP"] == want


def test_of_two_objects_of_equal_iou_the_later_one_is_taken():
    coco = load_coco(dataset([{"box": (0, 0, 20, 20)}, {"box": (20, 0, 20, 20)}]))
    rows = [
        {"query": 0, "score": 0.9, "box": (0, 0, 40, 20)},
        {"query": 1, "score": 0.8, "box": (0, 0, 20, 20)},
    ]
    made = predictions([rows])
    want = brute_force.coco_eval(coco, brute_force.results_of(made, "detections", 0)).stats[1] * 100
    assert analyze(made, coco).stages[0]["AP50"] == want == pytest.approx(100.0)


def test_at_most_one_hundred_detections_of_a_class_count():
    coco = load_coco(dataset([{"box": (0, 0, 50, 50)}]))
    rows = [{"query": q, "score": 0.9 - 0.001 * q, "box": (60, 60, 20, 20)} for q in range(100)]
    made = predictions([rows + [{"query": 100, "score": 0.1, "box": (0, 0, 50, 50)}]])
    assert analyze(made, coco).stages[0]["AP"] == 0.0
    assert analyze(made, coco, max_dets=101).stages[0]["AP"] > 0.0


def test_weighting_an_image_is_repeating_it():
    data, rng = synthetic_dataset(num_images=12, num_classes=3, seed=3)
    made = synthetic_predictions(data, rng, num_stages=2, num_queries=40)
    weights = rng.integers(0, 4, size=12)
    result = analyze(made, load_coco(data))
    weighted = mean_precision(precision_at_recalls(result.curves[-1], weights))

    images, annotations, results = [], [], []
    rows = to_coco_results(made.detections[-1], made)
    for image, times in zip(data["images"], weights.tolist(), strict=True):
        for copy in range(times):
            new = 1000 * image["id"] + copy
            images.append({**image, "id": new})
            own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            annotations += [{**a, "image_id": new, "id": len(annotations) + n} for n, a in enumerate(own, start=1)]
            results += [{**r, "image_id": new} for r in rows if r["image_id"] == image["id"]]
    repeated = load_coco({**data, "images": images, "annotations": annotations})
    assert weighted == pytest.approx(brute_force.coco_eval(repeated, results).stats[0] * 100, abs=1e-9)


def test_images_without_predictions_count_as_missed_unless_left_out():
    coco = load_coco(dataset([{"box": (0, 0, 50, 50)}, {"image": 1, "box": (0, 0, 50, 50)}], num_images=2))
    made = predictions([[{"score": 0.9, "box": (0, 0, 50, 50)}]])
    whole, part = analyze(made, coco), analyze(made, coco, predicted_images_only=True)
    assert whole.stages[0]["AP"] == pytest.approx(100 * 51 / 101)
    assert part.stages[0]["AP"] == pytest.approx(100.0)
    assert (whole.complete, part.complete) == (True, False)


def test_strange_images_and_categories_are_refused():
    made = predictions([[{"score": 0.9, "box": (0, 0, 50, 50)}]])
    with pytest.raises(ValueError, match="categories"):
        analyze(made, load_coco(dataset([], num_classes=3)))
    made.image_ids = np.asarray([99])
    with pytest.raises(ValueError, match="99"):
        analyze(made, load_coco(dataset([])))
