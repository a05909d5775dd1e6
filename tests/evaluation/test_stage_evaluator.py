"""StageEvaluator in Detectron2's evaluation loop: ordinary AP, interruption, ranks, and how errors read."""

import copy
import functools
import json

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.structures import Boxes, Instances
from torch import nn

from sqr.evaluation import StageEvaluator, StageInference
from sqr.evaluation.evaluator import query_ids
from sqr.evaluation.storage import load_predictions
from sqr.evaluation.synthetic import synthetic_dataset
from sqr.structures import ImagePredictions

NAME = "sqr_test_stage_evaluator"
STAGES, QUERIES, CLASSES, IMAGES = 3, 20, 4, 9


class TopK:
    def __init__(self, *, names_queries=True):
        self.names_queries = names_queries

    def __call__(self, scores, boxes, image_size):
        best, index = scores.flatten().topk(15)
        out = Instances(image_size, scores=best, pred_classes=index % scores.shape[1])
        out.pred_boxes = Boxes(boxes[index // scores.shape[1]])
        if self.names_queries:
            out.query_ids = index // scores.shape[1]
        return out


class StubDetector(nn.Module):
    """Predicts, from the image id alone, jittered copies of the image's objects."""

    def __init__(self, data, **kwargs):
        super().__init__()
        self.postprocessor = TopK(**kwargs)
        self.objects = {i["id"]: [] for i in data["images"]}
        for a in data["annotations"]:
            self.objects[a["image_id"]].append(a)

    def forward_stages(self, batched_inputs):
        return [self._one(x["image_id"]) for x in batched_inputs]

    def forward(self, batched_inputs):
        stages = self.forward_stages(batched_inputs)
        return [{"instances": self.postprocessor(o.scores[-1], o.boxes[-1], o.image_size)} for o in stages]

    def _one(self, image_id):
        noise = torch.Generator().manual_seed(image_id)
        scores = 0.3 * torch.rand(STAGES, QUERIES, CLASSES, generator=noise)
        boxes = 100 + 60 * torch.rand(QUERIES, 4, generator=noise)
        boxes[:, 2:] += boxes[:, :2]
        for q, a in enumerate(self.objects[image_id][:QUERIES]):
            x, y, w, h = a["bbox"]
            boxes[q] = torch.tensor([x, y, x + w, y + h])
            scores[:, q, a["category_id"] - 1] += 0.6 * torch.rand(STAGES, generator=noise)
        boxes = boxes + 4 * torch.randn(STAGES, QUERIES, 4, generator=noise)
        return ImagePredictions(scores=scores, boxes=boxes, image_size=(480, 640))


def register(path):
    """Register the synthetic set at ``path`` once a process; returns its content."""
    data, _ = synthetic_dataset(num_images=IMAGES, num_classes=CLASSES, seed=5)
    if not path.exists():
        path.write_text(json.dumps(data))
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    register_coco_instances(NAME, {}, str(path), "")
    load_coco_json(str(path), "", NAME)
    return data


@pytest.fixture
def data(tmp_path):
    return register(tmp_path / "instances.json")


def loader(data, ids=None, batch=2):
    inputs = [{"image_id": i["id"]} for i in data["images"] if ids is None or i["id"] in ids]
    return [inputs[n : n + batch] for n in range(0, len(inputs), batch)]


def test_last_stage_equals_the_ordinary_evaluation_exactly(data):
    model = StubDetector(data)
    ordinary = inference_on_dataset(
        model, loader(data), COCOEvaluator(NAME, ("bbox",), distributed=False, use_fast_impl=False)
    )["bbox"]
    evaluator = StageEvaluator(NAME, distributed=False)
    beside = COCOEvaluator(NAME, ("bbox",), distributed=False, use_fast_impl=False)
    results = inference_on_dataset(StageInference(model), loader(data), DatasetEvaluators([evaluator, beside]))
    last = evaluator.result.stages[-1]
    assert results["bbox"] == ordinary
    assert ordinary["AP"] > 10
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert last[name] == ordinary[name]
    assert last["per_class"] == [ordinary[f"AP-class {k}"] for k in range(1, CLASSES + 1)]
    assert results["stages"]["AP-stage3"] == ordinary["AP"]
    assert all(isinstance(v, float) for v in results["stages"].values())


def test_results_do_not_depend_on_batching_or_order(data):
    model = StageInference(StubDetector(data))
    one, other = (StageEvaluator(NAME, distributed=False) for _ in range(2))
    first = inference_on_dataset(model, loader(data, batch=4), one)
    second = inference_on_dataset(model, loader(data, batch=1)[::-1], other)
    assert first == second
    assert one.result.summary() == other.result.summary()


def test_files_hold_the_numbers_and_predictions_that_give_them_again(data, tmp_path):
    evaluator = StageEvaluator(NAME, output_dir=tmp_path / "out", distributed=False, shard_size=4)
    inference_on_dataset(StageInference(StubDetector(data)), loader(data), evaluator)
    stored = json.loads((tmp_path / "out" / "stage_analysis.json").read_text())
    assert stored == evaluator.result.summary()
    assert len(list((tmp_path / "out" / "predictions").glob("part-*.npz"))) == 3
    again, meta = load_predictions(tmp_path / "out" / "predictions")
    assert meta["dataset"] == NAME
    for kind in ("queries", "detections"):
        for a, b in zip(getattr(again, kind), getattr(evaluator.result.predictions, kind), strict=True):
            for column in ("image", "query", "label", "score", "box"):
                np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
    lines = (tmp_path / "out" / "stage_analysis.csv").read_text().splitlines()
    assert lines[0] == "section,item,metric,value"
    assert f"ap,stage 3,AP,{evaluator.result.stages[-1]['AP']}" in lines


def test_an_interrupted_run_keeps_and_evaluates_what_it_has(data, tmp_path):
    evaluator = StageEvaluator(NAME, output_dir=tmp_path, distributed=False, shard_size=4)
    model = StageInference(StubDetector(data))
    batches = loader(data)[:3]
    for inputs in batches:
        evaluator.process(inputs, model(inputs))
    assert len(load_predictions(tmp_path / "predictions")[0].image_ids) == 4
    evaluator.evaluate_partial()
    assert len(load_predictions(tmp_path / "predictions")[0].image_ids) == 6
    assert evaluator.result.complete is False
    assert evaluator.result.summary()["images"] == 6


def test_a_new_run_does_not_mix_with_the_files_of_an_old_one(data, tmp_path):
    model = StageInference(StubDetector(data))
    for ids in ({1, 2, 3, 4, 5, 6}, {7, 8}):
        evaluator = StageEvaluator(NAME, output_dir=tmp_path, distributed=False, shard_size=2)
        inference_on_dataset(model, loader(data, ids), evaluator)
        part = tmp_path / "predictions" / "part-0-0000.npz"
        part.with_name("part-7-0000.npz").write_bytes(part.read_bytes())  # as of a run in eight processes
    (tmp_path / "predictions" / "part-7-0000.npz").unlink()
    assert load_predictions(tmp_path / "predictions")[0].image_ids.tolist() == [7, 8]


def _rank_main(rank, world, directory):
    import torch.distributed as dist
    from detectron2.utils import comm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world)
    comm.create_local_process_group(world)
    data = register(directory / "instances.json")
    share = {i["id"] for i in data["images"][rank::world]}
    evaluator = StageEvaluator(NAME, output_dir=directory / "out")
    results = inference_on_dataset(StageInference(StubDetector(data)), loader(data, share), evaluator)
    assert (len(results) > 0) == (rank == 0)
    dist.destroy_process_group()


def test_two_processes_give_the_same_numbers_as_one(data, tmp_path):
    alone = StageEvaluator(NAME, distributed=False)
    inference_on_dataset(StageInference(StubDetector(data)), loader(data), alone)
    mp.start_processes(functools.partial(_rank_main), args=(2, tmp_path), nprocs=2, start_method="fork")
    assert json.loads((tmp_path / "out" / "stage_analysis.json").read_text()) == alone.result.summary()
    assert len(load_predictions(tmp_path / "out" / "predictions")[0].image_ids) == IMAGES


def test_queries_are_found_again_where_the_postprocessor_does_not_name_them(data):
    named, found = (StageEvaluator(NAME, distributed=False) for _ in range(2))
    inference_on_dataset(StageInference(StubDetector(data)), loader(data), named)
    inference_on_dataset(StageInference(StubDetector(data, names_queries=False)), loader(data), found)
    assert found.result.summary() == named.result.summary()


def test_equal_scores_go_to_different_queries():
    scores = torch.tensor([[0.5, 0.1], [0.5, 0.2], [0.3, 0.4]])
    out = Instances((10, 10), scores=torch.tensor([0.5, 0.5, 0.4]), pred_classes=torch.tensor([0, 0, 1]))
    assert query_ids(out, scores).tolist() == [0, 1, 2]
    out.scores = torch.tensor([0.5, 0.5, 0.45])
    with pytest.raises(ValueError, match="query_ids"):
        query_ids(out, scores)


def test_clipping_changes_the_rates_boxes_only(data):
    model = StageInference(StubDetector(data))
    inputs = loader(data)[0]
    outputs = model(inputs)
    outputs[0]["stages"].boxes[:, 0] = torch.tensor([-50.0, -50.0, 700.0, 500.0])
    for clip, expected in ((False, [-50, -50, 750, 550]), (True, [0, 0, 640, 480])):
        evaluator = StageEvaluator(NAME, distributed=False, clip_boxes=clip)
        evaluator.process(inputs, copy.deepcopy(outputs))
        evaluator.evaluate_partial()
        assert evaluator.result.predictions.queries[0].box[0].tolist() == expected


def test_what_goes_wrong_is_said(data):
    evaluator = StageEvaluator(NAME, distributed=False)
    with pytest.raises(KeyError, match="StageInference"):
        evaluator.process([{"image_id": 1}], [{"instances": None}])
    with pytest.raises(ValueError, match="no image"):
        evaluator.evaluate()
    with pytest.raises(TypeError, match="forward_stages"):
        StageInference(nn.Linear(1, 1))
    model = StageInference(StubDetector(data))
    inputs = loader(data)[0]
    for _ in range(2):
        evaluator.process(inputs, model(inputs))
    with pytest.raises(ValueError, match="twice"):
        evaluator.evaluate()
