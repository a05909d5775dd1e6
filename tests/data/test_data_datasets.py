"""Datasets from COCO files and registered names, the class count, and the errors a wrong one gives."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from sqr.data import (
    detection_dataset_name,
    get_detection_dataset,
    resolve_num_classes,
    training_augmentations,
)
from sqr.evaluation import BoxEvaluator


def coco_content(categories=((7, "cat"), (3, "dog")), num_images=3):
    """Images 1..n of 40x30 with one object each but the last, which is empty; the first has a crowd too."""
    ids = [c for c, _ in categories]
    annotations = [
        {
            "id": i,
            "image_id": i,
            "category_id": ids[i % len(ids)],
            "bbox": [2, 3, 10, 12],
            "area": 120,
            "iscrowd": 0,
        }
        for i in range(1, num_images)
    ]
    annotations.append({**annotations[0], "id": 100, "bbox": [0, 0, 30, 20], "iscrowd": 1})
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": c, "name": n} for c, n in categories],
    }


@pytest.fixture
def write(tmp_path):
    """``write(content, split)`` -> a dict with the paths of the written dataset, images included."""

    def write_split(content, split="train"):
        images = tmp_path / split
        images.mkdir(exist_ok=True)
        for image in content["images"]:
            Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(images / image["file_name"])
        path = tmp_path / f"instances_{split}.json"
        path.write_text(json.dumps(content))
        return {"annotations": str(path), "images": str(images)}

    return write_split


def config(train, val, num_classes=None):
    empty = {"name": None, "annotations": None, "images": None}
    return OmegaConf.create(
        {"data": {"train": {**empty, **train}, "val": {**empty, **val}, "num_classes": num_classes}}
    )


def test_category_ids_with_gaps_become_contiguous(write):
    files = write(coco_content())
    dicts = get_detection_dataset(**files, num_classes=2, training=True)
    assert [a["category_id"] for d in dicts for a in d["annotations"]] == [0, 0, 1]  # by id: dog 3, cat 7
    metadata = MetadataCatalog.get(detection_dataset_name(**files))
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.json_file == files["annotations"] and metadata.image_root == files["images"]


def test_images_without_objects_are_kept_unless_asked(write):
    files = write(coco_content())
    assert len(get_detection_dataset(**files, training=True)) == 3
    assert len(get_detection_dataset(**files, training=True, filter_empty=True)) == 2


def test_crowds_are_loaded_but_not_trained_on(write):
    files = write(coco_content())
    first = get_detection_dataset(**files, training=True)[0]
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 1]
    augmentations = training_augmentations(min_size=30, max_size=40, crop_prob=0)
    mapper = DatasetMapper(is_train=True, augmentations=augmentations, image_format="RGB")
    assert len(mapper(first)["instances"]) == 1


def test_the_name_is_stable_and_distinguishes_files(write):
    files = write(coco_content())
    name = detection_dataset_name(**files)
    assert name == detection_dataset_name(**files) and name.startswith("instances_train_")
    relative = {k: os.path.relpath(v) for k, v in files.items()}
    assert name == detection_dataset_name(**relative)
    assert name != detection_dataset_name(**write(coco_content(), "val"))
    assert name in DatasetCatalog


def test_annotations_win_over_the_name(write):
    files = write(coco_content())
    assert detection_dataset_name(name="coco_2017_train", **files).startswith("instances_train_")


def test_a_changed_file_is_registered_anew(write):
    files = write(coco_content())
    assert get_detection_dataset(**files)[0]["annotations"][0]["category_id"] == 0
    write(coco_content(categories=((1, "bird"), (2, "cat"), (3, "dog"))))
    assert MetadataCatalog.get(detection_dataset_name(**files)).thing_classes == ["bird", "cat", "dog"]
    assert len(get_detection_dataset(**files, num_classes=3)) == 3


def test_the_evaluator_finds_the_file(write, tmp_path):
    files = write(coco_content())
    evaluator = BoxEvaluator(detection_dataset_name(**files), output_dir=str(tmp_path))
    assert len(evaluator._coco_api.imgs) == 3


def test_null_num_classes_follows_the_data(write):
    cfg = config(write(coco_content()), write(coco_content(), "val"))
    assert resolve_num_classes(cfg) is None and cfg.data.num_classes == 2


def test_registered_names_need_no_files_for_the_class_count_alone():
    coco = config({"name": "coco_2017_train"}, {"name": "coco_2017_val"})
    resolve_num_classes(coco, check_files=False)
    assert coco.data.num_classes == 80
    shapes = config({"name": "shapes_train"}, {"name": "shapes_val"})
    resolve_num_classes(shapes, check_files=False)
    assert shapes.data.num_classes == 6


def test_a_config_without_data_is_left_alone():
    cfg = OmegaConf.create({"model": {"num_classes": 5}})
    resolve_num_classes(cfg)
    assert cfg == {"model": {"num_classes": 5}}


def test_a_differing_num_classes_names_both_and_the_fix(write):
    train, val = write(coco_content()), write(coco_content(), "val")
    with pytest.raises(ValueError, match=r"num_classes is 80, but .*instances_train.json.* has 2 .*num_classes=2"):
        resolve_num_classes(config(train, val, num_classes=80))
    with pytest.raises(ValueError, match=r"num_classes is 3, but .* has 2 classes"):
        get_detection_dataset(**train, num_classes=3)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (((3, "dog"),), r"only in training: \['cat'\]"),
        (((3, "dog"), (7, "cat"), (9, "owl")), r"only in validation: \['owl'\]"),
        (((3, "cat"), (7, "dog")), "another order, from class 0: 'dog' against 'cat'"),
    ],
)
def test_train_and_val_must_agree(write, categories, message):
    with pytest.raises(ValueError, match=message):
        resolve_num_classes(config(write(coco_content()), write(coco_content(categories), "val")))


def test_a_split_that_is_not_given(write):
    with pytest.raises(ValueError, match=r"data.train names no dataset: set data.train.annotations"):
        resolve_num_classes(config({}, {}))
    with pytest.raises(ValueError, match=r"data.val names no dataset"):
        resolve_num_classes(config(write(coco_content()), {}))
    with pytest.raises(ValueError, match="no dataset given"):
        get_detection_dataset()


def test_missing_paths(write, tmp_path):
    files = write(coco_content())
    with pytest.raises(FileNotFoundError, match=r"annotation file .*nowhere.json' does not exist"):
        get_detection_dataset(annotations=str(tmp_path / "nowhere.json"), images=files["images"])
    with pytest.raises(FileNotFoundError, match=r"image root .*nowhere' of annotation file"):
        get_detection_dataset(annotations=files["annotations"], images=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="without its image root"):
        get_detection_dataset(annotations=files["annotations"])
    Path(files["images"], "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2.png: no such file in"):
        get_detection_dataset(**files)


def test_images_in_subfolders_are_found(write, tmp_path):
    content = coco_content()
    (tmp_path / "train" / "sub").mkdir(parents=True)
    content["images"][1]["file_name"] = "sub/2.png"
    files = write(content)
    assert len(get_detection_dataset(**files)) == 3
    (tmp_path / "train" / "sub" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub/2.png: no such file"):
        get_detection_dataset(**files)


def without_boxes(content):
    del content["annotations"][1]["bbox"]


def crowds_only(content):
    content["annotations"] = content["annotations"][-1:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_boxes, "box that is not four finite numbers: 2.png: annotation 2: bbox None"),
        (crowds_only, "has no box to train on"),
        (lambda c: c["annotations"].clear(), "has no box to train on"),
        (lambda c: c["categories"].clear(), "has an empty 'categories' list"),
        (lambda c: c["images"].clear(), "lists no images"),
        (lambda c: c.pop("categories"), "not in COCO instances format"),
        (lambda c: c["images"][0].pop("height"), r"1.png: images\[0\] has no usable height"),
        (lambda c: c["categories"].append(c["categories"][0]), "category id used twice: category id 7"),
        (
            lambda c: c["annotations"][0].update(category_id=55),
            "category_id 55, which 'categories' does not list",
        ),
        (lambda c: c["annotations"][0].update(image_id=55), "image_id 55, which 'images' does not list"),
    ],
)
def test_unusable_annotations_are_named(write, spoil, message):
    content = coco_content()
    write(content)
    spoil(content)
    with pytest.raises(ValueError, match=message) as error:
        get_detection_dataset(**write(content), training=True)
    assert "instances_train.json" in str(error.value) and "\n" not in str(error.value)


def test_broken_json_is_named(write):
    files = write(coco_content())
    Path(files["annotations"]).write_text("{")
    with pytest.raises(ValueError, match=r"instances_train.json'.* is not valid JSON"):
        get_detection_dataset(**files)


def test_an_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match=r"'shapes_trian' is not registered .* did you mean 'shapes_train'"):
        get_detection_dataset(name="shapes_trian")


def test_a_registered_dataset_without_its_files(tmp_path):
    name = "coco_2017_val_absent"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "x.json"), thing_classes=["a"])
    try:
        with pytest.raises(FileNotFoundError, match=r"needs .*x.json', which does not exist: set the variable DETE"):
            get_detection_dataset(name=name)
    finally:
        DatasetCatalog.remove(name), MetadataCatalog.remove(name)
