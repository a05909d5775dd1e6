"""One verdict on every dataset: check, training, evaluation, analysis and --fix read it alike."""

import json
import os
import shutil
from pathlib import Path

import corpus
import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf

import dataset_builders as build
from sqr.cli.check import main
from sqr.data import DetectionMapper, get_detection_dataset, inference_augmentations, resolve_num_classes
from sqr.data import detection_dataset_name as dataset_name
from sqr.evaluation.ground_truth import from_coco
from sqr.evaluation.ground_truth import load_coco as load_for_analysis


def check(root, output, *options):
    return main([str(root), "--output", str(output), "--sheet", "0", "--workers", "1", *options])


def config(root):
    empty = {"name": None, "annotations": None, "images": None}
    splits = {split: {**empty, "split": split} for split in ("train", "val")}
    return OmegaConf.create({"data": {"root": str(root), "num_classes": None, **splits}})


def trained_on(root):
    """Objects of training that reach the model, or None where the dataset is refused in one line."""
    counts = {}
    try:
        resolve_num_classes(config(root))
        for split in ("train", "val"):
            dicts = get_detection_dataset(root=str(root), split=split, training=split == "train")
            mapper = DetectionMapper(
                is_train=True, augmentations=inference_augmentations(min_size=32), image_format="RGB"
            )
            batches = build_detection_test_loader(dicts, mapper=mapper, num_workers=0)
            counts[split] = sum(len(batch[0]["instances"]) for batch in batches)
    except (ValueError, OSError) as error:
        assert str(error) and "\n" not in str(error)
        return None
    return counts["train"]


def perfect_results(root):
    """COCO's results of a detector that finds every object, in the units of COCOEvaluator."""
    evaluator = COCOEvaluator(dataset_name(root=str(root), split="val"), output_dir=None, use_fast_impl=False)
    evaluator.reset()
    for item in get_detection_dataset(root=str(root), split="val"):
        instances = Instances((item["height"], item["width"]))
        boxes = torch.tensor([a["bbox"] for a in item["annotations"]]).reshape(-1, 4)
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.pred_classes = torch.tensor([a["category_id"] for a in item["annotations"]])
        instances.scores = torch.ones(len(boxes))
        evaluator.process([item], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def analysed(root, split="train"):
    """Objects that stage analysis sees in an annotation file, or None where it is refused."""
    try:
        return len(from_coco(load_for_analysis(root / f"annotations/instances_{split}.json")))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return None


@pytest.mark.parametrize(("layout", "kind"), corpus.CASES)
def test_one_verdict_everywhere(layout, kind, tmp_path, capsys):
    """What check passes trains, evaluates and is analysed; what it refuses does not; --fix says what it leaves out."""
    root, fixed = tmp_path / "set", tmp_path / "fixed"
    expected = corpus.make(layout, kind, root)
    objects = trained_on(root)
    assert objects == expected
    code = check(root, tmp_path / "report", "--fix", str(fixed))
    report = tmp_path / "report/report.json"
    refused = not report.exists() or json.loads(report.read_text())["errors"] > 0
    assert refused == (expected is None)
    if layout == "coco":
        assert analysed(root) == expected or kind in VERDICTS_OF_OTHER_FILES
    if expected is not None:
        results = perfect_results(root)
        assert results["AP"] == pytest.approx(100) and results["APs"] == pytest.approx(100)
    if fixed.exists():
        assert code == int(trained_on(fixed) is None)
        check_copy(root, fixed, json.loads((tmp_path / "report/fix.json").read_text()), expected)
    else:  # nothing could be read, and it was said in one line
        said = capsys.readouterr().err
        assert code == 1 and expected is None and said.startswith("error: ") and "encode" not in said


# analysis is asked about the training file only, without its images
VERDICTS_OF_OTHER_FILES = {
    "no box in validation", "no box in training", "boxes outside", "boxes without area", "annotations null",
    "annotations missing", "a file that is not there", "iscrowd 1 once", "iscrowd true once", "iscrowd everywhere",
    "a file name with half a character", "a folder called like an image", "a link to nothing", "an image that is text",
    "sizes exchanged", "classes swapped in validation",
}  # fmt: skip


def check_copy(root, fixed, said, expected):
    """Every image is in the copy or named with a reason; so are classes; a sound dataset keeps all its objects."""
    if expected is not None:
        assert trained_on(fixed) == expected
    left_out = [split for split in ("train", "val") if f"split {split}: no image" in " ".join(said["left_out"])]
    contents = [build.read_split_file(fixed, split) for split in ("train", "val") if split not in left_out]
    copied = {i["file_name"] for content in contents for i in content["images"]}
    missing = corpus.image_files(root) - copied
    assert len(said["left_out"]) >= len(missing) or left_out
    names = {c["name"] for c in contents[0]["categories"]}
    assert len(names) == 3 or any("merged" in line or "left out" in line for line in said["classes"])


# ---------------------------------------------------------------------- what a table of verdicts cannot say


def coco(tmp_path, kind):
    corpus.make("coco", kind, tmp_path / "set")
    return tmp_path / "set"


def test_yolo_pose_boxes_are_the_first_four_numbers(tmp_path):
    sound, posed = tmp_path / "sound", tmp_path / "posed"
    corpus.make("yolo", "sound", sound)
    corpus.make("yolo", "pose of 12 x 2", posed)
    boxes = [
        [a["bbox"] for d in get_detection_dataset(root=str(root), split="train") for a in d["annotations"]]
        for root in (sound, posed)
    ]
    np.testing.assert_allclose(*boxes, atol=1e-3)


@pytest.mark.parametrize("kind", ["area negative", "area 0", "area not a number", "area as a word", "area a share"])
def test_an_impossible_area_is_that_of_the_box(kind, tmp_path):
    root = coco(tmp_path, kind)
    if kind == "area a share":  # only where the box is large enough to tell
        corpus.of_sizes(lambda box, size: [0, 0, 40, 40])(root)
    ground_truth = from_coco(str(root / "annotations/instances_val.json"))
    np.testing.assert_allclose(ground_truth.area, ground_truth.box[:, 2] * ground_truth.box[:, 3])


def test_an_edited_file_is_read_again_whatever_its_time_and_size(tmp_path):
    root = coco(tmp_path, "area missing")
    path = root / "annotations/instances_train.json"
    before = path.stat()
    count = len(get_detection_dataset(root=str(root), split="train")[0]["annotations"])
    text = path.read_text()
    path.write_text(text.replace('"bbox": [4, 6,', '"bbox": [9, 6,'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = get_detection_dataset(root=str(root), split="train")[0]["annotations"]
    assert len(again) == count and again[0]["bbox"][0] == 9 and path.stat().st_size == before.st_size


def test_two_classes_of_one_name_are_merged_aloud(tmp_path, capsys):
    root = coco(tmp_path, "two categories of one name")
    assert check(root, tmp_path / "report", "--fix", str(tmp_path / "fixed")) == 0
    captured = capsys.readouterr()
    assert "two categories of one name" in captured.out and "merged, 'cat': category ids 1" in captured.err


def test_images_of_one_id_are_left_out_by_name(tmp_path, capsys):
    root = coco(tmp_path, "image id of two files")
    check(root, tmp_path / "report", "--fix", str(tmp_path / "fixed"))
    said = capsys.readouterr().err
    assert "train a.png: image id 1 used twice" in said and "train b.png: image id 1 used twice" in said


def test_names_that_would_collide_in_the_copy_stay_apart(tmp_path):
    root = build.write_coco(tmp_path / "set")
    for name in ("x/y_z.png", "x_y/z.png", "q/z.png", "x_y_z.png"):
        build.save_image(root / "train" / name, (20 + len(name), 24))
    content = build.read_split_file(root, "train")
    for number, name in enumerate(("x/y_z.png", "x_y/z.png", "q/z.png", "x_y_z.png"), start=50):
        content["images"].append({"id": number, "file_name": name, "width": 20 + len(name), "height": 24})
    build.write_split(root, "train", content)
    assert check(root, tmp_path / "report", "--fix", str(tmp_path / "fixed")) == 0
    assert len(list((tmp_path / "fixed/train").iterdir())) == 7


def test_a_missing_image_with_another_suffix_is_suggested(tmp_path):
    root = build.write_coco(tmp_path / "set")
    corpus.change(lambda c: c["images"][0].update(file_name="a.jpg"), "train")(root)
    with pytest.raises(FileNotFoundError, match=r"a.jpg: no such file in .*did you mean 'a.png'\?"):
        get_detection_dataset(root=str(root), split="train")
    shutil.rmtree(root / "train")
    with pytest.raises(FileNotFoundError, match=r"a.jpg: no such file in"):
        get_detection_dataset(root=str(root), split="train")
    assert Path(root).is_dir()
