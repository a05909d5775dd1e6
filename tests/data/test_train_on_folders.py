"""From a folder to a trained model through train_net.py: two iterations of a narrow model."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig

import dataset_builders as build
from engine_toys import run_toy
from helpers import SHARED
from sqr.data import get_detection_dataset

NARROW = [
    "train.device=cpu", "train.max_iter=2", "train.eval_period=0", "train.checkpointer.period=100",
    "dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "dataloader.train.total_batch_size=2",
    "data.min_size_train=[64]", "data.min_size_test=64", "data.max_size=96",
    "model.encoder.dim=32", "model.encoder.layers.ffn_dim=16",
    "model.decoder.stages.num_stages=2", "model.query_generator.num_queries=12",
]  # fmt: skip


def train(root, output, *overrides, config="quick/sqr_deformable_detr_folder", **flags):
    return run_toy(output, f"data.root={root}", *NARROW, *overrides, config=config, **flags)


def error_line(capfd):
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize("layout", ["yolo", "roboflow"])
def test_a_folder_trains_evaluates_and_stands_in_the_saved_config(layout, tmp_path):
    root = {"yolo": build.write_yolo, "roboflow": build.write_roboflow}[layout](tmp_path / "set")
    assert train(root, tmp_path / "out") == 0
    assert "bbox/AP" in (tmp_path / "out/metrics.json").read_text()
    saved = LazyConfig.load(str(tmp_path / "out/config.yaml"))
    assert saved.data.class_names == list(build.CLASSES) and saved.model.num_classes == 3
    weights = f"train.init_checkpoint={tmp_path}/out/model_final.pth"
    again = run_toy(tmp_path / "again", weights, config=str(tmp_path / "out/config.yaml"), eval_only=True)
    assert again == 0
    last = [json.loads((tmp_path / x / "metrics.json").read_text().splitlines()[-1]) for x in ("out", "again")]
    assert last[0]["bbox/AP"] == last[1]["bbox/AP"]


def test_a_checkpoint_of_other_classes_is_adapted_and_says_so(tmp_path):
    first = build.write_coco(tmp_path / "first")
    assert train(first, tmp_path / "a") == 0
    classes = ("mug", "pen")
    content = {s: [(n, size, [(0, box) for _, box in objects]) for n, size, objects in images]
               for s, images in build.CONTENT.items()}  # fmt: skip
    second = build.write_yolo(tmp_path / "second", content=content, classes=classes)
    weights = f"train.init_checkpoint={tmp_path}/a/model_final.pth"
    assert train(second, tmp_path / "b", weights) == 0
    log = (tmp_path / "b/log.txt").read_text()
    assert "Class heads of other classes than the file's, initialised anew: decoder.stages.*.class_embed" in log
    assert "Loaded " in log and LazyConfig.load(str(tmp_path / "b/config.yaml")).data.class_names == list(classes)


def drop_split(root):
    shutil.rmtree(root / "valid")


def other_classes(root):
    path = root / "valid/_annotations.coco.json"
    path.write_text(json.dumps(build.coco_content(build.CONTENT["val"], classes=("cat", "dog", "emu"))))


def break_training_image(root):
    for name in ("a.png", "b.png", "c.png"):
        (root / "train" / name).write_bytes(b"nothing")


def break_validation_image(root):
    (root / "valid/d.png").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "set' does not exist"),
        (lambda root: [shutil.rmtree(p) for p in root.iterdir()], "no dataset recognised in"),
        (drop_split, "has no split 'val', it has train, test"),
        (other_classes, "only in training: ['owl']"),
        (break_training_image, "it is no image of a known format"),
        (break_validation_image, "d.png: it is no image of a known format"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(spoil, message, tmp_path, capfd):
    root = build.write_roboflow(tmp_path / "set")
    spoil(root)
    assert train(root, tmp_path / "out", "train.max_iter=1") == 1
    assert message in error_line(capfd)


def test_too_many_objects_are_found_before_training(tmp_path, capfd):
    root = build.write_roboflow(tmp_path / "set")
    assert train(root, tmp_path / "out", "model.query_generator.num_queries=1") == 1
    assert "image 'a.png' has 2 objects, but the model has only 1 queries" in error_line(capfd)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- real images


def yolo_copy(source: Path, target: Path) -> Path:
    """A COCO-layout dataset in YOLO's layout, images linked."""
    content = {}
    for split in ("train", "val", "test"):
        coco = json.loads((source / f"annotations/instances_{split}.json").read_text())
        ids = {c["id"]: i for i, c in enumerate(sorted(coco["categories"], key=lambda c: c["id"]))}
        objects = {i["id"]: [] for i in coco["images"]}
        for a in coco["annotations"]:
            objects[a["image_id"]].append((ids[a["category_id"]], a["bbox"]))
        content[split] = [(i["file_name"], (i["width"], i["height"]), objects[i["id"]]) for i in coco["images"]]
        (target / split / "labels").mkdir(parents=True)
        (target / split / "images").symlink_to(source / split, target_is_directory=True)
        for name, size, rows in content[split]:
            text = "\n".join(build.yolo_row(label, box, size) for label, box in rows)
            (target / split / "labels" / name).with_suffix(".txt").write_text(text)
    names = [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
    (target / "data.yaml").write_text(json.dumps({"names": names, "train": "train/images", "val": "val/images"}))
    return target


def test_a_yolo_copy_of_aquarium_is_aquarium(tmp_path):
    source = SHARED / "data/aquarium_320"
    if not source.is_dir():
        pytest.skip("needs the real images of ../shared/data/aquarium_320")
    copy = yolo_copy(source, tmp_path / "yolo")
    for split in ("train", "val", "test"):
        ours, theirs = (
            {Path(d["file_name"]).name: d for d in get_detection_dataset(root=str(root), split=split)}
            for root in (copy, source)
        )
        assert ours.keys() == theirs.keys()
        for name, theirs_image in theirs.items():
            boxes = [[(a["category_id"], *a["bbox"]) for a in d["annotations"]] for d in (ours[name], theirs_image)]
            assert len(boxes[0]) == len(boxes[1])
            for a, b in zip(*boxes, strict=True):
                assert a == pytest.approx(b, abs=1e-3)
