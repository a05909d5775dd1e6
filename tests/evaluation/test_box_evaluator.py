"""The evaluator's numbers equal pycocotools' to the last digit."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools.cocoeval import COCOeval

from helpers import SHARED
from sqr.evaluation.coco_evaluator import BoxEvaluator, evaluate_boxes
from sqr.evaluation.ground_truth import load_coco


def random_dataset(seed, images=12, classes=4):
    """Crowds, ``ignore`` flags, areas that differ from boxes, annotation id 0, empty images, ids out of order."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(0 if image == 3 else int(rng.integers(0, 9))):
            size = np.exp(rng.uniform(1, 5.5, 2)).round(1).tolist()
            annotations.append(
                {"id": len(annotations), "image_id": 100 - 7 * image, "category_id": int(rng.integers(1, classes + 1)),
                 "bbox": [*rng.integers(0, 200, 2).tolist(), *size], "area": size[0] * size[1] * rng.uniform(0.3, 1),
                 "iscrowd": int(rng.random() < 0.15), "ignore": int(rng.random() < 0.2)}
            )  # fmt: skip
    return {
        "images": [{"id": 100 - 7 * i, "width": 640, "height": 480, "file_name": f"{i}.png"} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in range(classes, 0, -1)],
    }


def random_results(dataset, seed, per_object=3, noise=120):
    """Detections around the objects and elsewhere, with equal scores, more than 100 in the first image of a class."""
    rng = np.random.default_rng(seed)
    results = []
    for a in dataset["annotations"]:
        for _ in range(per_object):
            box = np.asarray(a["bbox"]) * rng.uniform(0.85, 1.15, 4)
            results.append((a["image_id"], a["category_id"], box))
    images, categories = ([x["id"] for x in dataset[key]] for key in ("images", "categories"))
    for i in range(noise):
        box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(5, 150, 2)])
        results.append((images[0] if i % 2 else images[i % len(images)], categories[0], box))
    return [
        {"image_id": image, "category_id": category, "bbox": box.astype(np.float32).tolist(),
         "score": float(np.float32(rng.integers(1, 40) / 40))}
        for image, category, box in results
    ]  # fmt: skip


def reference(coco, results, image_ids=None):
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        if image_ids is not None:
            found.params.imgIds = list(image_ids)
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


def assert_equal(dataset, results, image_ids=None):
    coco = load_coco(copy.deepcopy(dataset))
    expected, found = reference(coco, results, image_ids), evaluate_boxes(coco, results, image_ids)
    for key in ("precision", "recall"):
        np.testing.assert_array_equal(found.eval[key], expected.eval[key])
    np.testing.assert_array_equal(found.stats, expected.stats)
    assert found.stats[0] > 0


@pytest.mark.parametrize("seed", range(4))
def test_random_data(seed):
    dataset = random_dataset(seed)
    assert_equal(dataset, random_results(dataset, seed))


def test_some_of_the_images():
    dataset = random_dataset(7)
    assert_equal(dataset, random_results(dataset, 7), image_ids=[100, 51, 58, 65, 44])


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data sets")
@pytest.mark.parametrize("name", ["coco_free_320"])
def test_real_annotations(name):
    path = SHARED / "data" / name / "annotations" / "instances_val.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    dataset = json.loads(path.read_text())
    assert_equal(dataset, random_results(dataset, 0, per_object=2, noise=500))


def test_detectron2s_evaluator_and_ours_report_the_same(tmp_path):
    dataset = random_dataset(1)
    (tmp_path / "data.json").write_text(json.dumps(dataset))
    name = f"box_evaluator_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "data.json"),
        thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2, 4: 3},
        thing_classes=["a", "b", "c", "d"],
    )
    results = [{**r, "category_id": r["category_id"] - 1} for r in random_results(dataset, 1)]
    reports = {}
    for implementation in ("vectorised", "pycocotools"):
        output = tmp_path / implementation
        evaluator = BoxEvaluator(name, implementation=implementation, output_dir=str(output), distributed=False)
        evaluator.reset()
        evaluator._predictions = [{"image_id": 100, "instances": copy.deepcopy(results)}]
        report = evaluator.evaluate()["bbox"]
        reports[implementation] = report, json.loads((output / "coco_instances_results.json").read_text())
    assert reports["vectorised"] == reports["pycocotools"]
    assert "AP-a" in reports["vectorised"][0]
    with pytest.raises(ValueError, match="one of vectorised, pycocotools"):
        BoxEvaluator(name, implementation="fast")
