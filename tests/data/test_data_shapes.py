"""The embedded shapes dataset: deterministic, lazy, safe to generate, with boxes that fit the pixels."""

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sqr.data import detection_dataset_name, resolve_num_classes
from sqr.data.shapes import ShapesSettings, ensure_shapes, register_shapes, scene
from sqr.evaluation import BoxEvaluator

SMALL = ShapesSettings(train_images=40, val_images=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_shapes(tmp_path_factory.mktemp("shapes"), SMALL)


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha1(p.read_bytes()).hexdigest() for p in files}


def annotations(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_same_settings_give_the_same_bytes(folder, tmp_path):
    assert digests(ensure_shapes(tmp_path, SMALL)) == digests(folder)


def test_another_seed_or_split_gives_other_images(folder, tmp_path):
    other = ensure_shapes(tmp_path, dataclasses.replace(SMALL, seed=1))
    first, second = digests(folder), digests(other)
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    assert len(set(first.values())) == len(first)  # train/000000.png is not val/000000.png


def test_every_setting_changes_the_folder():
    scenes = dataclasses.replace(SMALL.scene, noise=3.0)
    variants = [SMALL, dataclasses.replace(SMALL, seed=1), dataclasses.replace(SMALL, val_images=31)]
    variants.append(dataclasses.replace(SMALL, scene=scenes))
    assert len({v.folder for v in variants}) == len(variants)


def test_an_image_does_not_depend_on_how_many_there_are(folder, tmp_path):
    fewer = digests(ensure_shapes(tmp_path, dataclasses.replace(SMALL, train_images=3, val_images=2)))
    images = {k: v for k, v in fewer.items() if k.endswith(".png")}
    assert len(images) == 5 and images.items() <= digests(folder).items()


def test_the_set_is_varied(tmp_path):
    content = annotations(ensure_shapes(tmp_path, ShapesSettings(train_images=300, val_images=1)), "train")
    counts = np.bincount([a["image_id"] for a in content["annotations"]], minlength=301)[1:]
    assert (counts == 0).sum() >= 5 and counts.max() >= 6
    assert {a["category_id"] for a in content["annotations"]} == {1, 2, 3, 4, 5, 6}
    longest = np.array([max(a["bbox"][2:]) for a in content["annotations"]])
    assert longest.min() < 16 and longest.max() > 85
    assert {max(i["width"], i["height"]) for i in content["images"]} == {128}
    ratios = np.array([i["width"] / i["height"] for i in content["images"]])
    assert ratios.min() < 0.65 and ratios.max() > 1.5


def test_boxes_lie_inside_their_images(folder):
    for split in ("train", "val"):
        content = annotations(folder, split)
        sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            width, height = sizes[a["image_id"]]
            assert x >= 0 and y >= 0 and x + w <= width + 1e-3 and y + h <= height + 1e-3
            assert min(w, h) >= SMALL.scene.min_box_side - 1e-3 and a["area"] == pytest.approx(w * h, abs=1e-2)


@pytest.mark.parametrize("category", range(len(scene.CLASSES)), ids=scene.CLASSES)
def test_boxes_fit_the_pixels(category):
    """The drawn coverage of a figure, cut by the image border or not, ends where its box does."""
    settings = dataclasses.replace(SMALL.scene, min_visible=0.05)
    rng = np.random.default_rng(category)
    checked = truncated = 0
    while checked < 60:
        figure = scene._random_figure(rng, 90, 110, settings)
        if figure.category != category:
            continue
        for _, (x0, y0, x1, y1), (alpha, top, left) in scene._drop_hidden([figure], 90, 110, settings):
            rows, columns = np.flatnonzero(alpha.max(1) > 0), np.flatnonzero(alpha.max(0) > 0)
            found = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
            # A sharp tip covers too little of its pixel to show up, hence the extra pixel.
            assert np.abs(np.array(found) - (x0, y0, x1, y1)).max() < 2.0
            assert found[0] >= x0 - 1 and found[1] >= y0 - 1 and found[2] <= x1 + 1 and found[3] <= y1 + 1
            truncated += x0 == 0 or y0 == 0 or x1 == 110 or y1 == 90
            checked += 1
    assert truncated >= 3


def test_hidden_figures_are_neither_drawn_nor_annotated():
    def square(centre, side):
        return scene._Figure(1, scene._unit_outline("square") * side / 2 + centre, None)

    settings = SMALL.scene
    back, front = square((40, 40), 20), square((44, 40), 30)  # the front one hides all of the other
    assert [f for f, _, _ in scene._drop_hidden([back, front], 80, 80, settings)] == [front]
    side = square((62, 40), 20)  # now 13 of 20 columns of the front figure's right neighbour are free
    assert [f for f, _, _ in scene._drop_hidden([side, front], 80, 80, settings)] == [side, front]


def test_ground_truth_as_detections_scores_one(folder):
    file = str(folder / "annotations" / "instances_val.json")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(file)
        found = truth.loadRes([{**a, "score": 1.0} for a in truth.dataset["annotations"]])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def _generate(root, barrier):
    barrier.wait()
    ensure_shapes(root, SMALL)


def test_two_processes_at_once_leave_one_whole_dataset(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_generate, args=(tmp_path, barrier)) for _ in range(2)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert [w.exitcode for w in workers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == [SMALL.folder]  # no scratch folder left
    assert digests(tmp_path / SMALL.folder) == digests(folder)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(rng, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("sqr.data.shapes.draw_scene", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_shapes(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_registered(tmp_path):
    """The small set under the registered names and a root of its own, the default one again afterwards."""
    register_shapes(tmp_path, SMALL)
    yield tmp_path
    register_shapes()


def test_registration_is_lazy_and_loading_generates(small_registered):
    assert list(small_registered.iterdir()) == []
    dicts = DatasetCatalog.get("shapes_val")
    assert len(dicts) == SMALL.val_images
    assert all(0 <= a["category_id"] < 6 for d in dicts for a in d["annotations"])
    assert Path(dicts[0]["file_name"]).is_file()


def test_the_evaluator_alone_generates_too(small_registered, tmp_path):
    name = detection_dataset_name(name="shapes_val")
    evaluator = BoxEvaluator(name, output_dir=str(tmp_path / "out"))
    assert len(evaluator._coco_api.imgs) == SMALL.val_images
    assert MetadataCatalog.get(name).thing_classes == list(scene.CLASSES)


def test_the_shipped_config_trains_and_evaluates_on_it(small_registered, tmp_path):
    cfg = LazyConfig.load(str(Path(__file__).resolve().parents[2] / "configs/common/data/shapes.py"))
    cfg.train = {"output_dir": str(tmp_path / "out")}
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    resolve_num_classes(cfg)
    assert cfg.data.num_classes == 6
    batch = next(iter(instantiate(cfg.dataloader.train)))
    assert len(batch) == 16 and all(max(b["image"].shape) <= 128 for b in batch)
    evaluator = instantiate(cfg.dataloader.evaluator)
    truth = {d["image_id"]: d["annotations"] for d in DatasetCatalog.get("shapes_val")}
    evaluator.reset()
    for inputs in instantiate(cfg.dataloader.test):
        evaluator.process(inputs, [{"instances": perfect_detections(truth, i)} for i in inputs])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100.0)


def perfect_detections(truth, inputs):
    objects = truth[inputs["image_id"]]
    detections = Instances((inputs["height"], inputs["width"]))
    boxes = torch.tensor([a["bbox"] for a in objects]).reshape(-1, 4)
    detections.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1))
    detections.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.long)
    detections.scores = torch.ones(len(objects))
    return detections
