"""COCO result files of other toolboxes, one a stage, and shards on disk."""

import json

import numpy as np
import pytest

from sqr.evaluation.analysis import analyze
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.storage import from_coco_results, load_predictions, save_predictions, to_coco_results
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions


@pytest.fixture
def case():
    data, rng = synthetic_dataset(num_images=6, num_classes=3, seed=2)
    return load_coco(data), synthetic_predictions(data, rng, num_stages=2, num_queries=30, top_k=60)


def write(directory, predictions, **drop):
    paths = []
    for s, table in enumerate(predictions.detections):
        rows = to_coco_results(table, predictions)
        rows = [{k: v for k, v in r.items() if k not in drop.get("columns", ())} for r in rows]
        paths.append(directory / f"stage{s}.json")
        paths[-1].write_text(json.dumps(rows))
    return paths


def test_result_files_with_query_ids_give_the_whole_analysis(case, tmp_path):
    coco, made = case
    read = from_coco_results(write(tmp_path, made), coco)
    want, got = analyze(made, coco).summary(), analyze(read, coco).summary()
    assert {**got, "source": ""} == {**want, "source": ""}  # all 60 pairs are in the files, so best classes are too


def test_result_files_without_query_ids_give_ap(case, tmp_path):
    coco, made = case
    read = from_coco_results(write(tmp_path, made, columns=("query_id",)), coco)
    result = analyze(read, coco)
    assert result.stages == analyze(made, coco).stages
    assert (result.oracle, result.errors) == (None, [])


def test_shards_round_trip(case, tmp_path):
    coco, made = case
    save_predictions(made, tmp_path)
    again, _ = load_predictions(tmp_path)
    assert analyze(again, coco).summary() == analyze(made, coco).summary()
    assert again.detections[0].box.dtype == np.float32


def test_what_is_wrong_with_a_file_is_said(case, tmp_path):
    coco, made = case
    path = write(tmp_path, made)[0]
    good = json.loads(path.read_text())
    for change, message in (
        ({"image_id": 999}, "image_id .999. is not in the annotation file"),
        ({"category_id": 999}, "category_id .999. is not in the annotation file"),
    ):
        path.write_text(json.dumps([{**good[0], **change}, *good[1:]]))
        with pytest.raises(ValueError, match=message):
            from_coco_results([path], coco)
    path.write_text(json.dumps([{k: v for k, v in good[0].items() if k != "query_id"}, *good[1:]]))
    with pytest.raises(ValueError, match="query_id; give it to all or to none"):
        from_coco_results([path], coco)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a list of results"):
        from_coco_results([path], coco)
    with pytest.raises(FileNotFoundError, match=r"meta.json"):
        load_predictions(tmp_path / "nowhere")
