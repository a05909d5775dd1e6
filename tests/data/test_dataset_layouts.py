"""``data.root``: every layout gives the same dataset, and what is wrong with a folder is one clear line."""

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import dataset_builders as build
from sqr.data import check_queries, detection_dataset_name, find_dataset, get_detection_dataset, resolve_num_classes
from sqr.data.layouts import canonical_split
from sqr.data.yolo_labels import LabelProblem, LabelRow, absolute_box, label_file, read_labels

LAYOUTS = {
    "coco": build.write_coco,
    "coco_2017": build.write_coco_2017,
    "roboflow": build.write_roboflow,
    "coco_without_names": build.write_bare_coco,
    "voc": build.write_voc,
    "voc_of_folders": lambda root: build.write_voc(root, lists=False),
    "labelme": build.write_labelme,
    "cvat": build.write_cvat,
    "csv": build.write_csv,
    "csv_without_header": lambda root: build.write_csv(root, header=False),
    "csv_of_folders": lambda root: build.write_csv(root, folders=True),
    "yolo": build.write_yolo,
    "yolo_split_first": lambda root: build.write_yolo(root, split_first=True),
    "yolo_names_dict": lambda root: build.write_yolo(root, names="dict"),
    "yolo_without_paths": lambda root: build.write_yolo(root, train=None, val=None, test=None),
    "yolo_of_another_machine": lambda root: build.write_yolo(root, path="/home/someone/data"),
    "yolo_of_roboflow": lambda root: build.write_yolo(
        root, split_first=True, path=None, train="../train/images", val="../valid/images", test="../test/images"
    ),
}


def loaded(root, split, **options):
    """Images by name with their objects, what a model is trained on."""
    dicts = get_detection_dataset(root=str(root), split=split, **options)
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    return {
        Path(d["file_name"]).name: (
            (d["width"], d["height"]),
            [(a["category_id"], pytest.approx(a["bbox"], abs=1e-3)) for a in d["annotations"]],
        )
        for d in dicts
    }


def config(root, **values):
    empty = {"name": None, "annotations": None, "images": None}
    data = {
        "root": str(root),
        "num_classes": None,
        "train": {**empty, "split": "train"},
        "val": {**empty, "split": "val"},
    }
    return OmegaConf.create({"data": {**data, **values}})


def test_voc_lists_name_images_with_spaces_endings_and_flags(tmp_path):
    root = build.write_voc(tmp_path / "set")
    (root / "JPEGImages/a.png").rename(root / "JPEGImages/a 1.png")
    annotation = root / "Annotations/a.xml"
    (root / "Annotations/a 1.xml").write_text(annotation.read_text().replace("a.png", "a 1.png"))
    annotation.unlink()
    (root / "ImageSets/Main/train.txt").write_text("a 1\nb.png\nc  1\n")
    assert list(loaded(root, "train")) == ["a 1.png", "b.png", "c.png"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_dataset(layout, tmp_path):
    root = LAYOUTS[layout](tmp_path / "set")
    before = sorted(str(p) for p in root.rglob("*"))
    for split, images in build.CONTENT.items():
        expected = {name: (size, objects) for name, size, objects in images}
        assert loaded(root, split, training=split == "train", num_classes=3) == expected
    assert sorted(str(p) for p in root.rglob("*")) == before  # nothing is written into it
    cfg = config(root)
    resolve_num_classes(cfg)
    assert cfg.data.num_classes == 3 and cfg.data.class_names == list(build.CLASSES)


def test_a_data_yaml_itself_is_a_root(tmp_path):
    root = build.write_yolo(tmp_path / "set")
    assert list(loaded(root / "data.yaml", "val")) == list(loaded(root, "val")) == ["d.png", "e.png"]


def test_yolo_images_in_list_files_and_several_folders(tmp_path):
    root = build.write_yolo(tmp_path / "set", train=["images/train", "more.txt"])
    build.save_image(root / "extra" / "images" / "g.png", (32, 32))
    (root / "extra" / "labels").mkdir()
    (root / "extra" / "labels" / "g.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (root / "more.txt").write_text("./extra/images/g.png\n\n")
    images = loaded(root, "train")
    assert len(images) == 4 and images["g.png"] == ((32, 32), [(1, [12, 8, 8, 16])])


def test_an_image_turned_by_exif_has_its_displayed_size(tmp_path):
    from PIL import Image

    root = build.write_yolo(tmp_path / "set")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(build.pixels((40, 20))).save(root / "images" / "train" / "g.jpg", exif=exif)
    (root / "labels" / "train" / "g.txt").write_text("0 0.5 0.5 1 1\n")
    assert loaded(root, "train")["g.jpg"] == ((20, 40), [(0, [0, 0, 20, 40])])


def test_yolo_annotations_are_cached_by_content_and_found_by_the_evaluator(tmp_path, cache_folder):
    from detectron2.data import MetadataCatalog

    root = build.write_yolo(tmp_path / "set")
    name = detection_dataset_name(root=str(root), split="val")
    assert name == detection_dataset_name(root=str(root), split="valid")
    json_file = Path(MetadataCatalog.get(name).json_file)
    assert json_file.is_relative_to(cache_folder) and len(json.loads(json_file.read_text())["images"]) == 2
    (root / "labels" / "val" / "e.txt").write_text("")
    assert loaded(root, "val")["e.png"] == ((64, 48), [])
    assert len(list((cache_folder / "sqr").iterdir())) == 2 and not list(cache_folder.rglob("*.tmp"))


def test_annotations_win_over_the_root_and_the_root_over_a_name(tmp_path):
    root = build.write_coco(tmp_path / "set")
    files = {"annotations": str(root / "annotations/instances_test.json"), "images": str(root / "test")}
    assert len(get_detection_dataset(root=str(root), split="train", **files)) == 1
    assert len(get_detection_dataset(root=str(root), split="train", name="coco_2017_train")) == 3


def test_annotations_without_area_and_iscrowd_can_be_evaluated(tmp_path):
    import torch
    from detectron2.structures import Boxes, Instances

    from sqr.evaluation import BoxEvaluator

    root = build.write_coco(tmp_path / "set")
    content = build.read_split_file(root, "val")
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    build.write_split(root, "val", content)
    before = (root / "annotations/instances_val.json").read_bytes()
    name = detection_dataset_name(root=str(root), split="val")
    evaluator = BoxEvaluator(name)
    evaluator.reset()
    for item in get_detection_dataset(root=str(root), split="val"):
        instances = Instances((item["height"], item["width"]))
        boxes = torch.tensor([a["bbox"] for a in item["annotations"]])
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.pred_classes = torch.tensor([a["category_id"] for a in item["annotations"]])
        instances.scores = torch.ones(len(boxes))
        evaluator.process([item], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert (root / "annotations/instances_val.json").read_bytes() == before


def test_labels_and_descriptions_with_a_byte_order_mark(tmp_path):
    root = build.write_yolo(tmp_path / "set")
    for path in (root / "data.yaml", root / "labels/train/a.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(loaded(root, "train")["a.png"][1]) == 2


def test_another_split_can_be_evaluated(tmp_path):
    cfg = config(build.write_roboflow(tmp_path / "set"))
    cfg.data.val.split = "test"
    resolve_num_classes(cfg)
    cfg.data.val.split = "holdout"
    with pytest.raises(ValueError, match=r"no split 'holdout', it has train, val, test; .*data.val.split=train"):
        resolve_num_classes(cfg)


# ---------------------------------------------------------------------- what is wrong


def without(root, *parts):
    shutil.rmtree(root.joinpath(*parts))
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root, r"set' does not exist"),
        (
            lambda root: build.save_image(root / "a.png", (8, 8)) or root,
            r"looked for train/_annotations.coco.json .*, annotations/instances_\*.json .* and data.yaml .*holds a.png",
        ),
        (lambda root: root.mkdir() or root, "it holds nothing"),
        (lambda root: build.save_image(root / "a.png", (8, 8)) or root / "a.png", "is a file; give its folder"),
        (lambda root: without(build.write_roboflow(root), "valid"), r"has no split 'val', it has train, test; to use"),
        (lambda root: without(build.write_roboflow(root), "train"), "has no split 'train', it has val, test"),
        (lambda root: without(build.write_yolo(root, val="nothing"), "images", "val"), r"val: 'nothing' is not there"),
        (lambda root: build.write_yolo(root, names="list", nc=5), "'nc' is 5, but 'names' has 3 classes"),
        (lambda root: build.write_yolo(root, names=None, **{"nc": None}), "'names' must be a list"),
    ],
)
def test_what_is_wrong_with_a_root_is_one_line(make, message, tmp_path):
    root = make(tmp_path / "set")
    if "must be a list" in message:
        (root / "data.yaml").write_text("names: {}\ntrain: images/train\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        resolve_num_classes(config(root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a\n", "not valid YAML"),
        ("names: {0: a, 2: b}\ntrain: images/train\n", r"must number the classes 0 to 1, got \[0, 2\]"),
        ("names: {x: a}\ntrain: images/train\n", "keys of 'names' must be class numbers"),
        ("names: [a]\n", "names no images"),
    ],
)
def test_a_data_yaml_that_makes_no_sense(text, message, tmp_path):
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / ("images/train" if "train:" in text else "other")).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.2", r"a.txt line 2: 4 numbers"),
        ("0 0.5 x 0.2 0.2", "holds something that is no number"),
        ("7 0.5 0.5 0.2 0.2", "class 7, but there are classes 0 to 2"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5, but there are"),
        ("1 nan 0.5 0.2 0.2", "not finite"),
    ],
)
def test_a_broken_label_row_is_named(row, message, tmp_path):
    root = build.write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{row}\n{row}\n")
    with pytest.raises(ValueError, match=rf"{message}.*\(2 of this kind, 2 errors in all\); tools/check_dataset.py"):
        get_detection_dataset(root=str(root), split="train")


def test_a_broken_yolo_image_is_named(tmp_path):
    root = build.write_yolo(tmp_path / "set")
    (root / "images/train/a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot read the image .*a.png: it is no image of a known format"):
        get_detection_dataset(root=str(root), split="train")


def test_class_lists_that_differ_between_splits(tmp_path):
    root = build.write_roboflow(tmp_path / "set")
    other = build.write_roboflow(tmp_path / "other", classes=("cat", "dog", "emu"))
    shutil.copy(other / "valid/_annotations.coco.json", root / "valid/_annotations.coco.json")
    with pytest.raises(ValueError, match=r"only in training: \['owl'\]; only in validation: \['emu'\]"):
        resolve_num_classes(config(root))


def test_class_names_of_another_dataset(tmp_path):
    cfg = config(build.write_coco(tmp_path / "set"), class_names=["cat", "cow", "owl"])
    with pytest.raises(ValueError, match=r"class_names are not those of split 'train' .*class 1: 'cow' against 'dog'"):
        resolve_num_classes(cfg)


def test_more_objects_than_queries_is_found_before_training(tmp_path):
    cfg = config(build.write_yolo(tmp_path / "set"))
    cfg.model = {"query_generator": {"num_queries": 2}}
    assert check_queries(cfg) is None
    cfg.model.query_generator.num_queries = 1
    with pytest.raises(ValueError, match=r"image 'images/train/a.png' has 2 objects, .*num_queries=2 or more"):
        check_queries(cfg)


def test_more_repeated_objects_than_auxiliary_queries_are_found_before_training(tmp_path):
    cfg = config(build.write_coco(tmp_path / "set"))
    cfg.model = {"query_generator": {"num_queries": 9, "num_auxiliary": 12}, "criterion": {"auxiliary_repeats": 6}}
    assert check_queries(cfg) is None
    cfg.model.query_generator.num_auxiliary = 11
    with pytest.raises(ValueError, match=r"2 objects, 12 with .*=6, but .* only 11 queries; .*num_auxiliary=12"):
        check_queries(cfg)


# ---------------------------------------------------------------------- names, paths, rows


@pytest.mark.parametrize(
    ("name", "split"),
    [("train2017", "train"), ("valid", "val"), ("Validation", "val"), ("test-dev", "test-dev"), ("fold_2", "fold_2")],
)
def test_split_names(name, split):
    assert canonical_split(name) == split


def test_files_of_one_split_keep_their_names(tmp_path):
    root = build.write_coco(tmp_path / "set")
    for year in ("2014", "2017"):
        shutil.copy(root / "annotations/instances_train.json", root / f"annotations/instances_train{year}.json")
    assert list(find_dataset(root).splits) == ["train", "val", "test", "train2014", "train2017"]


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("/d/images/train/a.b.jpg", "/d/labels/train/a.b.txt"),
        ("/images/train/images/a.jpg", "/images/train/labels/a.txt"),
        ("/d/train/a.jpg", "/d/train/a.txt"),
        ("/d/images.jpg", "/d/images.txt"),
    ],
)
def test_where_labels_are(image, labels):
    assert label_file(image) == labels


shares = st.floats(0.01, 0.45)
sizes = st.tuples(st.integers(8, 5000), st.integers(8, 5000))


@settings(deadline=None, max_examples=40)
@given(size=sizes, x=shares, y=shares, w=shares, h=shares, label=st.integers(0, 2))
def test_boxes_survive_the_way_to_yolo_and_back(tmp_path_factory, size, x, y, w, h, label):
    box = [x * size[0], y * size[1], w * size[0], h * size[1]]
    path = tmp_path_factory.getbasetemp() / "row.txt"
    path.write_text(build.yolo_row(label, box, size))
    (row,), problems = read_labels(str(path), 3)
    assert not problems and row.label == label
    assert absolute_box(row, size) == pytest.approx(box, abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9))
def test_a_polygon_counts_as_the_box_around_it(tmp_path_factory, points):
    path = tmp_path_factory.getbasetemp() / "polygon.txt"
    path.write_text("2 " + " ".join(f"{x} {y}" for x, y in points))
    (row,), _ = read_labels(str(path), 3)
    left, top, width, height = absolute_box(row, (100, 100))
    xs, ys = zip(*points, strict=True)
    assert [left, top, left + width, top + height] == pytest.approx(
        [100 * v for v in (min(xs), min(ys), max(xs), max(ys))], abs=1e-3
    )


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="0123456789.-+einfa \t\n#", max_size=60))
def test_any_text_is_rows_or_problems(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    rows, problems = read_labels(str(path), 3)
    assert len(rows) + len(problems) == sum(bool(line.strip()) for line in path.read_text().splitlines())
    assert all(isinstance(r, LabelRow) and all(map(math.isfinite, r.box)) for r in rows)
    assert all(isinstance(p, LabelProblem) for p in problems)
