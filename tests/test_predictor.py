"""``sqr.Predictor``: what it takes for an image, and that it predicts what an evaluation predicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

import sqr
from helpers import ROOT
from sqr import Predictor, engine, model_zoo
from sqr.config import load_config, save_config
from sqr.data import resolve_num_classes
from sqr.data.shapes import ShapesSettings, ensure_shapes
from sqr.errors import UserError

NAME = "quick/sqr_deformable_detr_shapes"
CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return ensure_shapes(tmp_path_factory.mktemp("shapes"), ShapesSettings(train_images=1, val_images=10))


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_zoo(NAME, device="cpu", batch_size=8)


@pytest.fixture
def path(shapes):
    return shapes / "val" / "000003.png"


def assert_same(first: Instances, second: Instances, atol: float = 0.0):
    assert first.image_size == second.image_size
    assert torch.equal(first.pred_classes, second.pred_classes)
    torch.testing.assert_close(first.scores, second.scores, atol=atol, rtol=0)
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, atol=100 * atol, rtol=0)


def test_importing_sqr_is_light():
    code = "import sys, sqr; assert not {'torch', 'detectron2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "projects" / "SQR")


def test_predicts_what_an_evaluation_predicts(shapes, predictor, tmp_path):
    overrides = [f"train.output_dir={tmp_path}", "train.device=cpu", "dataloader.test.num_workers=0"]
    for split in ("train", "val"):
        overrides.append(f"data.{split}.annotations={shapes}/annotations/instances_{split}.json")
        overrides.append(f"data.{split}.images={shapes}/{split}")
    cfg = load_config(NAME, [*overrides, "train.init_checkpoint=zoo"])
    resolve_num_classes(cfg)
    results = engine.run_eval_only(cfg, engine.evaluate)
    assert results["bbox"]["AP"] > 40  # the weights are trained ones
    evaluated = json.loads((tmp_path / "coco_instances_results.json").read_text())
    paths = sorted((shapes / "val").glob("*.png"))
    same = Predictor(
        model=predictor.model, mapper=predictor.mapper, class_names=CLASSES, batch_size=8, as_evaluated=True
    )
    for image_id, instances in enumerate(same(paths), start=1):
        expected = [r for r in evaluated if r["image_id"] == image_id]
        boxes = instances.pred_boxes.tensor.numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_array_equal(np.asarray([r["bbox"] for r in expected], dtype=np.float32), boxes)
        assert [r["score"] for r in expected] == instances.scores.tolist()
        assert [r["category_id"] - 1 for r in expected] == instances.pred_classes.tolist()


def test_every_kind_of_image_gives_the_same(predictor, path):
    expected = predictor(path)
    rgb = np.asarray(Image.open(path).convert("RGB"))
    bgr = rgb[:, :, ::-1]
    chw = torch.as_tensor(rgb.copy()).permute(2, 0, 1)
    assert_same(predictor(str(path)), expected)
    assert_same(predictor(Image.open(path)), expected)
    assert_same(predictor(bgr), expected)
    assert_same(predictor(rgb, color="RGB"), expected)
    assert_same(predictor(chw), expected)
    assert_same(predictor(chw.flip(0), color="BGR"), expected)
    assert not torch.equal(predictor(rgb).scores, expected.scores)  # red taken for blue is seen
    transparent = np.dstack([bgr, np.zeros(bgr.shape[:2], np.uint8)])
    assert_same(predictor(transparent), expected)
    assert_same(predictor(torch.cat((chw, chw[:1]))), expected)
    assert_same(predictor(np.left_shift(bgr, 8, dtype=np.uint16)), expected)
    grey = rgb[:, :, 1]
    expected = predictor(np.repeat(grey[:, :, None], 3, axis=2))
    assert len(expected)
    assert_same(predictor(grey), expected)
    eight = Image.fromarray(grey)
    sixteen = Image.fromarray(np.left_shift(grey, 8, dtype=np.uint16))  # as a 16-bit PNG is opened
    for image in (eight.convert("I"), eight.convert("F"), sixteen, sixteen.convert("I"), eight.convert("LA")):
        assert_same(predictor(image), expected)
    assert_same(predictor(Image.fromarray(grey.astype(np.float32) / 255)), expected)  # mode F
    with pytest.raises(ValueError, match="mode F has pixels from -1 to 1, a range without a meaning"):
        predictor(Image.fromarray(np.array([[-1, 1]], np.float32)))


def test_batches_are_lists(predictor, path, shapes):
    rgb = np.asarray(Image.open(path).convert("RGB"))
    expected = predictor([rgb[:64, :96, ::-1], path])
    assert [i.image_size for i in expected] == [(64, 96), rgb.shape[:2]]
    assert predictor([]) == []
    for batch in (np.stack([rgb, rgb])[..., ::-1], torch.as_tensor(np.stack([rgb, rgb])).permute(0, 3, 1, 2)):
        first, second = predictor(batch)
        assert_same(first, second, atol=1e-5)
    alone = Predictor(model=predictor.model, mapper=predictor.mapper, class_names=CLASSES, batch_size=1)
    assert_same(alone([path, shapes / "val" / "000004.png"])[0], alone(path))


def test_an_image_is_predicted_alike_alone_and_in_any_batch(predictor, path, shapes):
    pixels = [np.asarray(Image.open(p).convert("RGB")) for p in (path, shapes / "val" / "000004.png")]
    images = [pixels[0], pixels[0][:64, :90], pixels[1][:100, :41], pixels[1]]
    for image, together in zip(images, predictor.stages(images, color="RGB"), strict=True):
        alone = predictor.stages(image, color="RGB")
        torch.testing.assert_close(together.scores, alone.scores, atol=1e-3, rtol=0)
        torch.testing.assert_close(together.boxes, alone.boxes, atol=0.1, rtol=0)


def test_boxes_are_in_pixels_of_the_image_as_given(predictor, path):
    small = predictor(path)
    image = Image.open(path)
    large = predictor(image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST), score_threshold=0.5)
    assert large.image_size == (2 * image.height, 2 * image.width)
    best = large[0]
    same_class = small[small.pred_classes == best.pred_classes]
    distance = (same_class.pred_boxes.tensor * 2 - best.pred_boxes.tensor).abs().amax(-1)
    assert distance.min() < 8


def test_thresholds_and_stages(predictor, path):
    everything = predictor(path, score_threshold=0)
    some = predictor(path)
    assert 0 < len(some) < len(everything) and some.scores.min() >= 0.3
    outputs = predictor.stages(path)
    assert outputs.scores.shape == (6, 30, 6)
    assert len(predictor.stages([path, path])) == 2
    evaluated = Predictor(model=predictor.model, mapper=predictor.mapper, class_names=CLASSES, as_evaluated=True)
    last = predictor.model.postprocessor(outputs.scores[-1], outputs.boxes[-1], outputs.image_size)
    assert_same(evaluated(path), last)


def test_a_query_is_one_detection_inside_of_the_image(predictor, path):
    outputs = predictor.stages(path)
    everything = predictor(path, score_threshold=0)
    assert sorted(everything.query_ids.tolist()) == list(range(30)) and (everything.scores.diff() <= 0).all()
    scores, classes = outputs.scores[-1].max(-1)
    assert torch.equal(everything.scores, scores[everything.query_ids])
    assert torch.equal(everything.pred_classes, classes[everything.query_ids])
    height, width = everything.image_size
    inside = outputs.boxes[-1][everything.query_ids].clamp(min=0)
    inside = torch.minimum(inside, torch.tensor([width, height, width, height]))
    torch.testing.assert_close(everything.pred_boxes.tensor, inside)
    names = [CLASSES[label] for label in everything.pred_classes]
    assert everything.pred_class_names == names and everything[3:5].pred_class_names == names[3:5]
    assert everything[everything.scores >= 0.3].pred_class_names == names[: len(predictor(path))]
    assert everything[torch.tensor([4, 0])].pred_class_names == [names[4], names[0]]


def test_predictions_are_drawn(predictor, path):
    picture = predictor.draw(path)
    assert isinstance(picture, Image.Image) and max(picture.size) == 512
    plain = predictor.draw(path, predictor(path, score_threshold=1.1))
    assert (np.asarray(picture) != np.asarray(plain)).any(-1).mean() > 0.01
    assert np.array_equal(predictor.draw(np.asarray(Image.open(path).convert("RGB")), color="RGB"), picture)


def test_from_run_takes_the_names_and_the_last_checkpoint(tmp_path, path, predictor):
    cfg = load_config(NAME)
    cfg.data.num_classes = 6
    names = ["a", "b", "c", "d", "e", "f"]
    cfg.data.class_names = names  # the data, which stands in no place of this machine, is not asked
    cfg.data.val.name = cfg.data.train.name = "nowhere"
    save_config(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(UserError, match="no last_checkpoint: nothing was saved yet"):
        Predictor.from_run(tmp_path)
    shutil.copy(model_zoo.get_checkpoint_url(NAME), tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    run = Predictor.from_run(tmp_path, device="cpu", score_threshold=0.2)
    assert run.class_names == tuple(names)
    assert_same(run(path), predictor(path, score_threshold=0.2), atol=1e-5)
    data = torch.load(tmp_path / "model_final.pth", weights_only=True)
    with pytest.raises(UserError, match="does not say which model it is of: name the config too"):
        Predictor(tmp_path / "model_final.pth")
    torch.save({**data, "about": {"config": (tmp_path / "config.yaml").read_text()}}, tmp_path / "moved.pth")
    moved = Predictor(tmp_path / "moved.pth", device="cpu", score_threshold=0.2)
    assert moved.class_names == tuple(names)
    assert_same(moved(path), run(path))
    with pytest.raises(UserError, match=r"model_best.pth: no such checkpoint; there are: model_final.pth"):
        Predictor.from_run(tmp_path, checkpoint="model_best.pth")
    with pytest.raises(UserError, match=r"not the output folder of a training: it holds no config.yaml"):
        Predictor.from_run(tmp_path / "none")


def test_from_zoo_knows_the_classes_and_which_models_are_trained(predictor):
    assert predictor.class_names == CLASSES
    trained = f"zoo://quick/sqr_deformable_detr_cells, zoo://{NAME}$"
    with pytest.raises(UserError, match=rf"quick/detr_shapes has no trained checkpoint.*there are: {trained}"):
        Predictor.from_zoo("quick/detr_shapes")


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        ("no/such.jpg", FileNotFoundError, "no such image: no/such.jpg"),
        (np.zeros((4, 4, 3), np.float32), ValueError, r"an array must be \(height, width, 3\) uint8.*float32"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"an array must be \(height, width, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "the image has no pixels"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"a tensor must be \(3, height, width\) uint8"),
        (3, TypeError, "an image is a path, a PIL image, an array or a tensor"),
        ([3], TypeError, "not int"),
    ],
)
def test_what_is_no_image_is_said(predictor, image, error, text):
    with pytest.raises(error, match=text):
        predictor(image)


def test_bad_options(predictor, path):
    with pytest.raises(ValueError, match="color='RGBA': must be one of BGR, RGB"):
        predictor(path, color="RGBA")
    with pytest.raises(ValueError, match="batch_size=0"):
        Predictor(model=predictor.model, mapper=predictor.mapper, class_names=CLASSES, batch_size=0)
    with pytest.raises(ValueError, match="the test mapper, a function, has no augmentations"):
        Predictor(model=predictor.model, mapper=assert_same, class_names=CLASSES)


def test_the_packages_names_are_those_that_it_offers():
    assert {name for name in dir(sqr) if not name.startswith("_")} == {*sqr.__all__, *sqr._MODULES}
