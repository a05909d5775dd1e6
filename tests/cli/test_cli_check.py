"""check_dataset: every defect is found, and is an error exactly where training or evaluation fails on it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import build_detection_test_loader
from omegaconf import OmegaConf
from PIL import Image

import dataset_builders as build
from helpers import SHARED
from sqr.cli.check import main
from sqr.data import (
    DetectionMapper,
    check_queries,
    find_dataset,
    get_detection_dataset,
    inference_augmentations,
    resolve_num_classes,
)
from sqr.data.check import KINDS, inspect_dataset, report_dict, report_text

QUERIES = 5


def edit(change, split="train"):
    """A defect of an annotation file."""

    def spoil(root):
        content = build.read_split_file(root, split)
        change(content)
        build.write_split(root, split, content)

    return spoil


def image(change, name="a.png", split="train"):
    """A defect of an image file: ``change`` gets its pixels and path."""

    def spoil(root):
        path = root / split / name
        with Image.open(path) as opened:
            loaded = opened.copy()
        change(loaded, path)

    return spoil


def first(content):
    return content["annotations"][0]


def turned(pixels, path):
    exif = Image.Exif()
    exif[274] = 3
    pixels.save(path, exif=exif)


def transparent(pixels, path):
    pixels.putalpha(9)
    pixels.save(path)


def repeat_image(content):
    content["images"].append({**content["images"][0], "id": 77})


def add_objects(content):
    content["annotations"] += [{**first(content), "id": 100 + i, "bbox": [i, 0, 5, 5]} for i in range(QUERIES)]


def shares(content):
    for annotation in content["annotations"]:
        annotation.update(bbox=[0.1, 0.2, 0.3, 0.4], area=0.12)


def without_boxes(content):
    content["annotations"].clear()


def truncate(pixels, path):
    path.write_bytes(path.read_bytes()[:-60])


def add_class(content):
    content["categories"].append({"id": 9, "name": "emu"})


def add_class_everywhere(root):
    for split in build.CONTENT:
        edit(add_class, split)(root)


COCO = {
    "unreadable_annotations": lambda root: (root / "annotations/instances_train.json").write_text("{"),
    "missing_field": edit(lambda c: c["images"][0].pop("height")),
    "missing_image": lambda root: (root / "val/d.png").unlink(),
    "undecodable_image": image(truncate),
    "float_image": image(lambda i, path: Image.fromarray(np.zeros((48, 64), np.float32)).save(path, format="TIFF")),
    "size_mismatch": image(lambda i, path: i.resize((50, 40)).save(path)),
    "bad_box": edit(lambda c: first(c).update(bbox=[1, 2, float("nan"), 4])),
    "duplicate_image_id": edit(lambda c: c["images"][1].update(id=1)),
    "renumbered_ids": edit(lambda c: c["annotations"][1].update(id=1)),
    "bad_flag": edit(lambda c: first(c).update(iscrowd=2)),
    "duplicate_category_name": edit(lambda c: c["categories"][1].update(name="cat")),
    "boxes_are_shares": edit(shares),
    "tiny_box": edit(lambda c: first(c).update(bbox=[5, 5, 0.5, 0.5], area=0.25)),
    "turned_box": edit(lambda c: first(c).update(bbox=[24, 18, -20, -12])),
    "bad_area": edit(lambda c: first(c).update(area=-240)),
    "no_boxes_to_evaluate": edit(without_boxes, "test"),
    "renamed_image": lambda root: (root / "train/a.png").rename(root / "train/A.PNG"),
    "duplicate_category_id": edit(lambda c: c["categories"][1].update(id=1)),
    "unknown_category": edit(lambda c: first(c).update(category_id=9)),
    "unknown_image": edit(lambda c: first(c).update(image_id=9)),
    "ignore_flag": edit(lambda c: first(c).update(ignore=1), "val"),
    "too_many_objects": edit(add_objects),
    "no_boxes": edit(without_boxes),
    "classes_differ": edit(add_class, "val"),
    "split_missing": lambda root: (root / "annotations/instances_val.json").unlink(),
    "box_outside": edit(lambda c: first(c).update(bbox=[50, 40, 20, 20])),
    "degenerate_box": edit(lambda c: first(c).update(bbox=[5, 5, 0, 9])),
    "duplicate_box": edit(lambda c: c["annotations"].append({**first(c), "id": 50})),
    "crowd": edit(lambda c: first(c).update(iscrowd=1)),
    "incomplete_annotation": edit(lambda c: first(c).pop("area")),
    "repeated_image": edit(repeat_image),
    "same_content": lambda root: shutil.copy(root / "train/a.png", root / "val/e.png"),
    "unused_category": add_class_everywhere,
    "grey_image": image(lambda i, path: i.convert("L").save(path)),
    "transparent_image": image(transparent),
    "palette_image": image(lambda i, path: i.quantize(9).save(path)),
    "cmyk_image": image(lambda i, path: i.convert("CMYK").save(path, format="JPEG")),
    "sixteen_bit_image": image(lambda i, path: Image.fromarray(np.full((48, 64), 999, np.uint16)).save(path)),
    "rotated_image": image(turned),
}


def label(text):
    return lambda root: (root / "labels/train/a.txt").write_text(text)


def unlabelled_image(root):
    shutil.rmtree(root)
    build.write_voc(root, lists=False)
    build.save_image(root / "train/z.png", (20, 20))


YOLO = {
    "image_without_label": unlabelled_image,
    "no_images": lambda root: [p.unlink() for p in (root / "images/val").iterdir()],
    "bad_label": label("0 0.5 0.5 0.1\n"),
    "bad_box": label("0 0.5 0.5 nan 0.1\n"),
    "unknown_category": label("3 0.5 0.5 0.1 0.1\n"),
    "undecodable_image": lambda root: (root / "images/train/a.png").write_bytes(b"nothing"),
    "missing_image": lambda root: (root / "images/train/a.png").unlink(),  # with a list file
    "box_outside": label("0 0.1 0.1 0.5 0.5\n"),
    "degenerate_box": label("0 0.5 0.5 0.1 0\n"),
    "duplicate_box": label("0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n"),
    "label_without_image": lambda root: (root / "labels/train/z.txt").write_text(""),
}
CASES = [("coco", kind) for kind in COCO] + [("yolo", kind) for kind in YOLO]


def make(layout, kind, root):
    if layout == "coco":
        build.write_coco(root)
        COCO[kind](root)
    else:
        build.write_yolo(root, **({"train": "list.txt"} if kind == "missing_image" else {}))
        (root / "list.txt").write_text("\n".join(f"images/train/{n}.png" for n in "abc"))
        YOLO[kind](root)
    return root


def training_fails(root):
    """Whether anything fails between a config and the last image of training and validation."""
    empty = {"name": None, "annotations": None, "images": None}
    data = {
        "root": str(root),
        "num_classes": None,
        "train": {**empty, "split": "train"},
        "val": {**empty, "split": "val"},
    }
    cfg = OmegaConf.create({"data": data, "model": {"query_generator": {"num_queries": QUERIES}}})
    try:
        resolve_num_classes(cfg)
        check_queries(cfg)
        for split in ("train", "val"):
            dicts = get_detection_dataset(root=str(root), split=split, training=split == "train")
            mapper = DetectionMapper(
                is_train=True, augmentations=inference_augmentations(min_size=32), image_format="RGB"
            )
            for batch in build_detection_test_loader(dicts, mapper=mapper):
                assert batch[0]["image"].shape[0] == 3
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
        return True
    return False


def test_there_is_a_case_for_every_kind():
    assert {kind for _, kind in CASES} == set(KINDS)


@pytest.mark.parametrize(("layout", "kind"), CASES)
def test_a_defect_is_found_and_its_severity_is_the_truth(layout, kind, tmp_path):
    root = make(layout, kind, tmp_path / "set")
    inspection = inspect_dataset(find_dataset(root), queries=QUERIES)
    found = [defect for defect in inspection.defects if defect.kind == kind]
    assert found and all(defect.file and defect.text for defect in found)
    assert found[0].severity == KINDS[kind][0] == ("error" if training_fails(root) else "warning")
    assert inspection.failing == (KINDS[kind][0] == "error")
    report = report_dict(inspection)
    assert any(d["kind"] == kind and d["count"] == len(found) for d in report["defects"])
    assert f"[{kind}]" in report_text(inspection)


@pytest.mark.parametrize("layout", ["coco", "coco_2017", "roboflow", "yolo"])
def test_a_sound_dataset_has_no_defect(layout, tmp_path):
    root = getattr(build, f"write_{layout}")(tmp_path / "set")
    inspection = inspect_dataset(find_dataset(root))
    assert inspection.defects == [] and not training_fails(root)
    report = report_dict(inspection)
    assert report["classes"] == list(build.CLASSES) and list(report["splits"]) == ["train", "val", "test"]
    train = report["splits"]["train"]
    assert (train["images"], train["empty_images"], train["boxes"]) == (3, 1, 3)
    assert train["boxes_per_image"] == {"min": 0, "median": 1, "mean": 1.0, "max": 2}
    assert train["box_sizes"] == {"small": 3, "medium": 0, "large": 0}
    assert train["classes"]["owl"] == {"boxes": 1, "images": 1, "small": 1, "medium": 0, "large": 0}
    assert train["image_widths"] == {"min": 40, "median": 64, "mean": 56.0, "max": 64}
    assert "It can be trained on." in report_text(inspection)


def test_sizes_are_cocos(tmp_path):
    images = [
        ("a.png", (200, 200), [(0, [0, 0, 32, 32]), (0, [0, 0, 33, 32]), (1, [0, 0, 96, 97]), (2, [5, 5, 96, 96])])
    ]
    root = build.write_coco(tmp_path / "set", content={"train": images, "val": images})
    report = report_dict(inspect_dataset(find_dataset(root)))
    assert report["splits"]["train"]["box_sizes"] == {"small": 1, "medium": 2, "large": 1}


def test_without_decoding_a_truncated_file_goes_unnoticed_and_is_said_so(tmp_path):
    root = make("coco", "undecodable_image", tmp_path / "set")
    inspection = inspect_dataset(find_dataset(root), decode=False)
    assert not inspection.failing and "a truncated file would not be noticed" in report_text(inspection)


def test_boxes_on_the_stored_pixels_of_a_turned_image_are_no_mismatch(tmp_path):
    root = build.write_coco(tmp_path / "set")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(build.pixels((64, 48))).save(root / "train/a.png", exif=exif)
    kinds = [d.kind for d in inspect_dataset(find_dataset(root)).defects]
    assert kinds == ["rotated_image"] and not training_fails(root)


# ---------------------------------------------------------------------- the cleaned copy


def spoil_everything(root):
    """Most defects at once: train has errors of annotations, val of images, both have all the warnings."""
    for kind in ("renumbered_ids", "duplicate_box", "repeated_image", "bad_area"):
        COCO[kind](root)
    edit(lambda c: c["annotations"].append({**first(c), "id": 60, "bbox": [None, 1, 2, 3]}))(root)
    edit(lambda c: c["annotations"].append({**first(c), "id": 61, "category_id": 99}))(root)
    edit(lambda c: c["annotations"].append({**first(c), "id": 62, "bbox": [60, 5, 20, 90]}))(root)
    edit(lambda c: c["annotations"].append({**first(c), "id": 63, "ignore": 1, "bbox": [0, 0, 64, 48]}))(root)
    image(lambda i, path: i.convert("P").save(path), "b.png")(root)
    image(turned, "c.png")(root)
    image(lambda i, path: i.resize((96, 96)).save(path), "d.png", "val")(root)  # 48x48 annotated
    image(truncate, "e.png", "val")(root)
    image(transparent, "f.png", "test")(root)
    edit(lambda c: c["categories"].append({"id": 9, "name": "emu"}), "test")(root)


def test_the_cleaned_copy_can_be_trained_on(tmp_path, capsys):
    root = build.write_coco(tmp_path / "set")
    spoil_everything(root)
    assert training_fails(root)
    before = {p: p.read_bytes() for p in root.rglob("*.*")}
    fixed = tmp_path / "fixed"
    assert main([str(root), "--output", str(tmp_path / "report"), "--fix", str(fixed)]) == 0
    assert {p: p.read_bytes() for p in root.rglob("*.*")} == before
    assert not training_fails(fixed) and not list(tmp_path.glob(".*partial"))
    inspection = inspect_dataset(find_dataset(fixed))
    assert {d.kind for d in inspection.defects} == {"crowd", "unused_category"}
    train, val = (inspection.splits[s] for s in ("train", "val"))
    assert train.classes == val.classes == ["cat", "dog", "owl", "emu"]
    assert [i.file_name for i in train.images] == ["a.png", "b.png", "c.png"]
    objects = [(o.category, o.box, o.crowd) for o in train.images[0].objects]
    assert objects == [
        ("cat", [4, 6, 20, 12], False),
        ("owl", [30, 8, 25, 33], False),
        ("cat", [60, 5, 4, 43], False),
        ("cat", [0, 0, 64, 48], True),
    ]
    (resized,) = val.images
    assert (resized.size, resized.objects[0].box) == ((96, 96), [6, 6, 60, 40])
    assert (fixed / "train/a.png").samefile(root / "train/a.png")
    assert not (fixed / "train/b.png").samefile(root / "train/b.png")
    turned_over = np.asarray(Image.open(fixed / "train/c.png"))
    np.testing.assert_array_equal(turned_over, np.asarray(Image.open(root / "train/c.png"))[::-1, ::-1])
    out, err = capsys.readouterr()
    assert "5 images (3 re-encoded, 1 left out)" in err
    assert out.endswith(f" data.root={fixed} train.output_dir=output/mine\n")


def test_a_yolo_folder_becomes_a_coco_one_and_names_stay_apart(tmp_path):
    root = build.write_yolo(tmp_path / "set")
    for name in ("x", "y"):
        build.save_image(root / f"images/train/{name}/same.png", (32, 32))
        (root / f"labels/train/{name}").mkdir()
        (root / f"labels/train/{name}/same.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    Image.open(root / "images/val/e.png").save(root / "images/val/e.gif")
    (root / "labels/val/e.txt").unlink()
    assert (
        main([str(root), "--output", str(tmp_path / "report"), "--fix", str(tmp_path / "fixed"), "--sheet", "0"]) == 0
    )
    files = sorted(p.name for p in (tmp_path / "fixed/train").iterdir())
    assert files == ["a.png", "b.png", "c.png", "images_train_x_same.png", "images_train_y_same.png"]
    assert sorted(p.name for p in (tmp_path / "fixed/val").iterdir()) == ["d.png", "e.png", "e_gif.png"]
    images = {
        d["file_name"].rpartition("/")[2]: d for d in get_detection_dataset(root=tmp_path / "fixed", split="train")
    }
    assert [a["bbox"] for a in images["images_train_x_same.png"]["annotations"]] == [[8, 8, 16, 16]]


def test_roboflows_placeholder_class_is_said_and_left_out_of_the_copy(tmp_path, capsys):
    root = build.write_roboflow(tmp_path / "set")
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["supercategory"] = "animals"
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        path.write_text(json.dumps(content))
    assert main([str(root), "--output", str(tmp_path / "report"), "--fix", str(tmp_path / "fixed")]) == 0
    assert "animals (a group that Roboflow adds; --fix removes it)" in capsys.readouterr().out
    assert inspect_dataset(find_dataset(tmp_path / "fixed")).splits["train"].classes == list(build.CLASSES)


# ---------------------------------------------------------------------- the command


def test_the_command_writes_a_report_and_a_contact_sheet(tmp_path, capsys):
    root = make("coco", "undecodable_image", tmp_path / "set")
    assert main([str(root), "--output", str(tmp_path / "report"), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "report/report.json").read_text())
    assert printed["errors"] == 1 and printed["defects"][0]["places"][0]["file"] == "a.png"
    with Image.open(tmp_path / "report/contact_sheet.png") as sheet:
        assert min(sheet.size) > 300
        assert len(set(sheet.convert("L").resize((50, 50)).tobytes())) > 50  # there are pictures on it


def test_a_single_file_needs_no_layout(tmp_path):
    root = build.write_coco(tmp_path / "set")
    annotations = root / "annotations/instances_val.json"
    options = ["--output", str(tmp_path / "report"), "--sheet", "0"]
    assert main([str(annotations), *options]) == 0
    shutil.move(root / "val", tmp_path / "elsewhere")
    assert main([str(annotations), *options]) == 1
    assert main([str(annotations), "--images", str(tmp_path / "elsewhere"), *options]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere does not exist"),
        (["empty"], 2, "no dataset recognised in"),
        (["set", "--images", "set"], 2, "--images goes with a single annotation file"),
        (["set/annotations/instances_val.json", "--images", "nowhere"], 2, "no such folder"),
        (["set", "--fix", "set"], 2, "exists and is not an empty folder"),
        (["broken"], 1, "data.yaml is not valid YAML"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build.write_coco(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/data.yaml").write_text("names: [a")
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_trivial_warning_is_one_line_however_often_it_occurs(tmp_path, capsys):
    root = build.write_coco(tmp_path / "set")
    edit(lambda c: [a.pop("area") for a in c["annotations"]])(root)
    assert main([str(root), "--output", str(tmp_path / "report"), "--sheet", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [number for number, line in enumerate(lines) if "incomplete_annotation" in line]
    assert lines[line].startswith("warning: 3 x annotation without area") and "in 2 files" in lines[line]
    assert lines[line + 1] == ""


def test_a_check_needs_neither_pytorch_nor_detectron2(tmp_path):
    root = build.write_voc(tmp_path / "set")
    fixed, report = tmp_path / "fixed", tmp_path / "report"
    code = (
        "import sys; from sqr.cli.check import main; "
        f"code = main([{str(root)!r}, '--output', {str(report)!r}, '--fix', {str(fixed)!r}]); "
        "print(code, sorted({'torch', 'detectron2', 'matplotlib', 'omegaconf'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert (report / "contact_sheet.png").is_file() and (fixed / "annotations/instances_train.json").is_file()


# ---------------------------------------------------------------------- one split becomes two


def photos(root, numbers, *, copies=()):
    """One COCO split of different pictures; those in ``copies`` also stand there recompressed and rescaled."""
    (root / "images").mkdir(parents=True)
    images = []
    for number in numbers:
        picture = Image.fromarray(build.pixels((80, 60), seed=number))
        for variant in range(3 if number in copies else 1):
            size = (80 - 8 * variant, 60 - 6 * variant)
            name = f"{number:03d}_{variant}.jpg"
            picture.resize(size).save(root / "images" / name, quality=95 - 20 * variant)
            images.append((name, size, [(number % 3, [5, 5, 20, 20])]))
    (root / "labels.json").write_text(json.dumps(build.coco_content(images)))
    return root


def split(root, fixed, *options):
    return main(
        [str(root), "--output", f"{fixed}_report", "--sheet", "0", "--fix", str(fixed), "--split", "0.25", *options]
    )


def names(fixed, part):
    return {image["file_name"] for image in build.read_split_file(fixed, part)["images"]}


def test_one_split_becomes_two_with_near_duplicates_together(tmp_path, capsys):
    root = photos(tmp_path / "set", range(20), copies=range(6))
    assert main([str(root), "--output", str(tmp_path / "report"), "--sheet", "0"]) == 1
    assert "no val, only train; --split 0.2 --fix FOLDER divides it" in capsys.readouterr().out
    assert split(root, tmp_path / "fixed") == 0 and not training_fails(tmp_path / "fixed")
    train, val = names(tmp_path / "fixed", "train"), names(tmp_path / "fixed", "val")
    assert len(train | val) == 32 and not train & val and len(val) == 8
    assert not {name[:3] for name in train} & {name[:3] for name in val}
    again, other = tmp_path / "again", tmp_path / "other"
    assert split(root, again) == split(root, other, "--seed", "1") == 0
    assert names(again, "val") == val != names(other, "val")


@pytest.mark.parametrize(
    ("numbers", "options", "code", "message"),
    [
        (range(1), [], 1, "the 1 images of split 'train' cannot be divided: 1 groups"),
        (range(4), ["--no-decode"], 2, "leave out --no-decode"),
    ],
)
def test_what_cannot_be_divided(numbers, options, code, message, tmp_path, capsys):
    assert split(photos(tmp_path / "set", numbers), tmp_path / "fixed", *options) == code
    assert message in capsys.readouterr().err


def test_two_splits_are_not_divided(tmp_path, capsys):
    assert split(build.write_coco(tmp_path / "set"), tmp_path / "fixed") == 2
    assert "there is one" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["aquarium_320", "bccd_320", "coco_free_320"])
def test_the_real_images_have_no_errors(dataset):
    root = SHARED / "data" / dataset
    if not root.is_dir():
        pytest.skip(f"needs the real images of ../shared/data/{dataset}")
    inspection = inspect_dataset(find_dataset(root), decode=False)
    kinds = {d.kind for d in inspection.defects}
    expected = {"coco_free_320": {"crowd", "unused_category"}, "aquarium_320": {"tiny_box"}}.get(dataset, set())
    assert kinds <= expected and not inspection.failing
