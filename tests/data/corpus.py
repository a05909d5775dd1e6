"""Datasets as people have them, sound and broken: every kind of input with what is to become of it.

A case is a change of a sound dataset in COCO's or YOLO's layout and the number of objects of ``train`` that are to be
trained on; None where the dataset is to be refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import yaml

import dataset_builders as build

CONTENT = {split: build.CONTENT[split] for split in ("train", "val")}
NUM_OBJECTS = sum(len(objects) for _, _, objects in build.CONTENT["train"])


def change(edit: Callable[[dict], object], *splits: str) -> Callable[[Path], None]:
    """Change the annotation files of the splits (by default of training and validation)."""

    def apply(root: Path) -> None:
        for split in splits or ("train", "val"):
            content = build.read_split_file(root, split)
            edit(content)
            build.write_split(root, split, content)

    return apply


def each(key: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change every entry of one list."""
    return change(lambda content: [edit(entry) for entry in content[key]])


def annotations(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    return each("annotations", edit)


def field(key: str, value: object) -> Callable[[Path], None]:
    """Set a field of every annotation."""
    return annotations(lambda a: a.update({key: value}))


def first(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the first annotation of training."""
    return change(lambda content: edit(content["annotations"][0]), "train")


def of_sizes(edit: Callable[[list, tuple[int, int]], list]) -> Callable[[Path], None]:
    """Change every box, given the size of its image."""

    def apply(content: dict) -> None:
        sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
        for a in content["annotations"]:
            a["bbox"] = edit(a["bbox"], sizes[a["image_id"]])

    return change(apply)


def as_type(kind: type) -> Callable[[Path], None]:
    """Write every id and size as another type."""

    def apply(content: dict) -> None:
        for key, names in (("images", ("id", "width", "height")), ("categories", ("id",)),
                           ("annotations", ("id", "image_id", "category_id"))):  # fmt: skip
            for entry in content[key]:
                entry.update({name: kind(entry[name]) for name in names})

    return change(apply)


def text_ids(content: dict) -> None:
    for entry in content["images"]:
        entry["id"] = f"img-{entry['id']}"
    for entry in content["annotations"]:
        entry.update(id=f"a{entry['id']}", image_id=f"img-{entry['image_id']}")


def mixed_ids(content: dict) -> None:
    content["images"][0]["id"] = "first"
    content["categories"][0]["id"] = "animal"
    for entry in content["annotations"]:
        entry["image_id"] = "first" if entry["image_id"] == 1 else entry["image_id"]
        entry["category_id"] = "animal" if entry["category_id"] == 1 else entry["category_id"]


def huge_ids(content: dict) -> None:
    for entry in content["images"]:
        entry["id"] += 10**400
    for entry in content["annotations"]:
        entry["image_id"] += 10**400


def rename_image(listed: str, stored: str) -> Callable[[Path], None]:
    """The annotations call a.png ``listed``, the file is called ``stored``."""

    def apply(root: Path) -> None:
        change(lambda c: c["images"][0].update(file_name=listed), "train")(root)
        (root / "train" / stored).parent.mkdir(exist_ok=True)
        (root / "train/a.png").rename(root / "train" / stored)

    return apply


def integer_name(root: Path) -> None:
    change(lambda c: c["images"][0].update(file_name=7), "train")(root)
    (root / "train/a.png").rename(root / "train/7")


def names(*some: str) -> Callable[[Path], None]:
    """Other names for the first classes."""
    return change(lambda c: [entry.update(name=name) for entry, name in zip(c["categories"], some, strict=False)])


def shifted(key: str, reference: str, by: int) -> Callable[[Path], None]:
    """Other ids of images or categories, by adding a number."""

    def apply(content: dict) -> None:
        for entry in content[key]:
            entry["id"] += by
        for entry in content["annotations"]:
            entry[reference] += by

    return change(apply)


def instead_of_the_image(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / "train/a.png").unlink()
        make(root / "train/a.png")

    return apply


def strip(width: int, height: int) -> Callable[[Path], None]:
    """The first image is thin, and so are its objects."""

    def apply(root: Path) -> None:
        build.save_image(root / "train/a.png", (width, height))
        change(lambda c: c["images"][0].update(width=width, height=height), "train")(root)
        box = [0, 0, max(1, width // 2), max(1, height // 2)]
        change(lambda c: [a.update(bbox=box) for a in c["annotations"] if a["image_id"] == 1], "train")(root)

    return apply


def with_byte_order_mark(root: Path) -> None:
    for path in (root / "annotations").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def in_utf_16(root: Path) -> None:
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text(), encoding="utf-16")


def turned(box: list, _size: tuple[int, int]) -> list:
    x, y, w, h = box
    return [x + w, y + h, -w, -h]


E_ACUTE = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
ALL = NUM_OBJECTS

COCO: dict[str, tuple[Callable[[Path], object], int | None]] = {
    "sound": (lambda root: None, ALL),
    "annotation ids from 0": (annotations(lambda a: a.update(id=a["id"] - 1)), ALL),
    "annotation ids twice": (field("id", 5), ALL),
    "annotation ids negative": (annotations(lambda a: a.update(id=-a["id"])), ALL),
    "annotation ids 1 and '1'": (annotations(lambda a: a.update(id="1" if a["id"] == 2 else a["id"])), ALL),
    "annotation ids that are not a number": (field("id", float("nan")), ALL),
    "annotation ids missing": (annotations(lambda a: a.pop("id")), ALL),
    "ids as floats": (as_type(float), ALL),
    "ids and sizes as text": (as_type(str), ALL),
    "ids that are words": (change(text_ids), ALL),
    "ids of several types": (change(mixed_ids), ALL),
    "ids of 400 digits": (change(huge_ids), ALL),
    "an id that is a list": (each("images", lambda i: i.update(id=[i["id"]])), None),
    "an id that is true": (each("categories", lambda c: c.update(id=True)), None),
    "image ids negative": (shifted("images", "image_id", -9), ALL),
    "category ids negative": (shifted("categories", "category_id", -2), ALL),
    "category ids of 400 digits": (shifted("categories", "category_id", 10**400), ALL),
    "image ids 1 and '1'": (change(lambda c: c["images"][1].update(id="1"), "train"), None),
    "an image_id of 1.5": (first(lambda a: a.update(image_id=1.5)), None),
    "an image_id of half a character": (first(lambda a: a.update(image_id="\ud800")), None),
    "an image_id that is a file name": (first(lambda a: a.update(image_id="a.png")), None),
    "a category_id that is a name": (first(lambda a: a.update(category_id="cat")), None),
    "image id of two files": (change(lambda c: c["images"][1].update(id=1)), None),
    "area negative": (annotations(lambda a: a.update(area=-a["area"])), ALL),
    "area 0": (field("area", 0), ALL),
    "area not a number": (field("area", float("nan")), ALL),
    "area as text": (annotations(lambda a: a.update(area=str(a["area"]))), ALL),
    "area as a word": (field("area", "large"), ALL),
    "area of the image": (field("area", 64 * 48 * 1000), ALL),
    "area a share": (field("area", 0.01), ALL),
    "area a list": (field("area", [100]), ALL),
    "area of 400 digits": (field("area", 10**400), ALL),
    "area missing": (annotations(lambda a: a.pop("area")), ALL),
    "segmentation flat": (field("segmentation", [1.0, 2, 3, 4, 5, 6]), ALL),
    "segmentation of too few points": (field("segmentation", [[1, 2]]), ALL),
    "segmentation of a broken RLE": (field("segmentation", {"counts": "x", "size": [1]}), ALL),
    "segmentation a word": (field("segmentation", "polygon"), ALL),
    "keypoints of any shape": (field("keypoints", [1, "x", None]), ALL),
    "iscrowd '0'": (field("iscrowd", "0"), ALL),
    "iscrowd 'false'": (field("iscrowd", "false"), ALL),
    "iscrowd 'No'": (field("iscrowd", "No"), ALL),
    "iscrowd '0.0'": (field("iscrowd", "0.0"), ALL),
    "iscrowd false": (field("iscrowd", False), ALL),
    "iscrowd null": (field("iscrowd", None), ALL),
    "iscrowd 1 once": (first(lambda a: a.update(iscrowd="1")), ALL - 1),
    "iscrowd true once": (first(lambda a: a.update(iscrowd="True")), ALL - 1),
    "iscrowd a word": (field("iscrowd", "maybe"), None),
    "iscrowd not a number": (field("iscrowd", float("nan")), None),
    "iscrowd everywhere": (field("iscrowd", 1), None),
    "iscrowd [0]": (field("iscrowd", [0]), None),
    "iscrowd 2": (field("iscrowd", 2), None),
    "iscrowd -1": (field("iscrowd", -1), None),
    "ignore": (first(lambda a: a.update(ignore=1)), None),
    "boxes turned": (of_sizes(turned), ALL),
    "boxes as text": (annotations(lambda a: a.update(bbox=[str(v) for v in a["bbox"]])), ALL),
    "boxes as shares": (of_sizes(lambda b, s: [b[0] / s[0], b[1] / s[1], b[2] / s[0], b[3] / s[1]]), None),
    "boxes outside": (of_sizes(lambda b, s: [b[0] + 1000, *b[1:]]), None),
    "boxes without area": (of_sizes(lambda b, s: [b[0], b[1], 0, b[3]]), None),
    "one box outside": (first(lambda a: a.update(bbox=[500, 500, 9, 9])), ALL - 1),
    "one box over the edge": (first(lambda a: a.update(bbox=[-9, -9, 30, 30])), ALL),
    "a box of three": (first(lambda a: a.update(bbox=[1, 2, 3])), None),
    "a box of 10**400": (first(lambda a: a.update(bbox=[1, 2, 10**400, 4])), None),
    "a box that is infinite": (first(lambda a: a.update(bbox=[1, 2, float("inf"), 4])), None),
    "a box of truths": (first(lambda a: a.update(bbox=[True, True, True, True])), None),
    "a box of 1e300": (first(lambda a: a.update(bbox=[1, 2, 1e300, 1e300])), ALL),
    "a box in a list": (first(lambda a: a.update(bbox=[a["bbox"]])), None),
    "a box that is text": (first(lambda a: a.update(bbox="[1, 2, 3, 4]")), None),
    "two categories of one name": (change(lambda c: c["categories"][1].update(name="cat ")), None),
    "names that differ in an invisible space": (names("cat", "cat\u200b"), None),
    "names that differ in a space that does not break": (names("sea cat", "sea\u00a0cat"), None),
    "names in NFC and NFD": (names("caf\u00e9", "cafe\u0301"), None),
    "names that differ in their case": (names("Cat", "cat"), ALL),
    "names with control characters": (names("\x1b[2Jcat", "d\0og"), ALL),
    "names that differ in a control character": (names("cat", "c\0at"), None),
    "names with half a character": (names("\ud800cat"), ALL),
    "categories that are names": (change(lambda c: c.update(categories=["cat", "dog", "owl"])), None),
    "classes swapped in validation": (change(lambda c: c["categories"][0].update(name="dog") or
                                             c["categories"][1].update(name="cat"), "val"), None),
    "a category without a name": (change(lambda c: c["categories"][1].update(name=None)), None),
    "category names as numbers": (each("categories", lambda c: c.update(name=c["id"])), ALL),
    "annotations null": (change(lambda c: c.update(annotations=None)), None),
    "annotations a dict": (change(lambda c: c.update(annotations={"0": {}})), None),
    "annotations missing": (change(lambda c: c.pop("annotations")), None),
    "annotations of nulls": (change(lambda c: c["annotations"].append(None)), None),
    "images null": (change(lambda c: c.update(images=None)), None),
    "no box in validation": (change(lambda c: c["annotations"].clear(), "val"), None),
    "no box in training": (change(lambda c: c["annotations"].clear(), "train"), None),
    "a file name that is a number": (integer_name, ALL),
    "a file name that is a list": (change(lambda c: c["images"][0].update(file_name=["a.png"])), None),
    "a file name in NFC, the file in NFD": (rename_image(*E_ACUTE), ALL),
    "a file name in NFD, the file in NFC": (rename_image(*reversed(E_ACUTE)), ALL),
    "a file name with backslashes": (rename_image("sub\\a.png", "sub/a.png"), ALL),
    "a file name in another case": (rename_image("A.PNG", "a.png"), ALL),
    "a path of another machine": (rename_image("/home/someone/data/a.png", "a.png"), ALL),
    "a file name with a byte order mark": (rename_image("\ufeffa.png", "a.png"), ALL),
    "a file name that is an address": (rename_image("https://example.org/x/a.png", "a.png"), ALL),
    "a file name with half a character": (change(lambda c: c["images"][0].update(file_name="\ud800.png")), None),
    "a folder called like an image": (instead_of_the_image(Path.mkdir), None),
    "a link to nothing": (instead_of_the_image(lambda path: path.symlink_to("nothing.png")), None),
    "an image that is text": (instead_of_the_image(lambda path: path.write_text("no image")), None),
    "an image of 600x1": (strip(600, 1), ALL),
    "an image of 1x1": (strip(1, 1), ALL),
    "a file that is not there": (rename_image("z.png", "a.png"), None),
    "a byte order mark": (with_byte_order_mark, ALL),
    "UTF-16": (in_utf_16, ALL),
    "sizes in words": (each("images", lambda i: i.update(width=f"{i['width']}px")), None),
    "sizes of 400 digits": (each("images", lambda i: i.update(width=10**400)), None),
    "sizes exchanged": (each("images", lambda i: i.update(width=i["height"], height=i["width"])), None),
    "sizes negative": (each("images", lambda i: i.update(width=-i["width"])), None),
    "sizes of 0": (each("images", lambda i: i.update(width=0)), None),
    "sizes that are no whole numbers": (each("images", lambda i: i.update(width=i["width"] + 0.5)), None),
}  # fmt: skip


def rows(edit: Callable[[int, list[float]], str]) -> Callable[[Path], None]:
    """Rewrite every row of every label file, given class number and box."""

    def apply(root: Path) -> None:
        for path in root.glob("labels/*/*.txt"):
            parsed = [line.split() for line in path.read_text().splitlines() if line]
            path.write_text("".join(f"{edit(int(p[0]), [float(v) for v in p[1:]])}\n" for p in parsed))

    return apply


def row(label: int, *numbers: float) -> str:
    return " ".join([str(label), *(f"{v:.6f}" for v in numbers)])


def described(**keys: object) -> Callable[[Path], None]:
    """Add keys to the data.yaml."""

    def apply(root: Path) -> None:
        path = root / "data.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))

    return apply


def pose(points: int, values: int, *, reach: float = 0.5, **keys: object) -> Callable[[Path], None]:
    """Every row gets keypoints, above the centre of its box by a share of its height."""

    def with_points(label: int, box: list[float]) -> str:
        cx, cy, w, h = box
        along = [(cx - w / 2 + w * i / points, max(0.0, cy - h * reach), 1.0)[:values] for i in range(points)]
        return row(label, *box, *(v for point in along for v in point))

    def apply(root: Path) -> None:
        rows(with_points)(root)
        described(**keys)(root)

    return apply


def corners(label: int, box: list[float]) -> str:
    cx, cy, w, h = box
    left, top, right, bottom = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    return row(label, left, top, right, top, right, bottom, left, bottom)


def decomposed_labels(root: Path) -> None:
    composed, decomposed = E_ACUTE
    (root / "images/train/a.png").rename(root / "images/train" / composed)
    (root / "labels/train/a.txt").rename(root / "labels/train" / decomposed.replace(".png", ".txt"))


YOLO: dict[str, tuple[Callable[[Path], object], int | None]] = {
    "sound": (lambda root: None, ALL),
    "polygons": (rows(corners), ALL),
    "pose of 12 x 2": (pose(12, 2, kpt_shape=[12, 2]), ALL),
    "pose of 5 x 3": (pose(5, 3, kpt_shape=[5, 3]), ALL),
    "pose of 4 x 3": (pose(4, 3, kpt_shape=[4, 3]), ALL),
    "pose, not described": (pose(12, 2), None),
    "pose, not described, of 4 x 3": (pose(4, 3), None),
    "pose, not described, keypoints outside the boxes": (pose(12, 2, reach=2.5), None),
    "pose of another shape": (pose(12, 2, kpt_shape=[3, 3]), None),
    "a kpt_shape that is none": (pose(12, 2, kpt_shape="12x2"), None),
    "polygons, described": (lambda root: (rows(corners)(root), described(task="segment")(root)), ALL),
    "a score": (rows(lambda label, box: row(label, *box, 0.9)), None),
    "a score and a track": (rows(lambda label, box: row(label, *box, 0.9, 17)), None),
    "a score and track 1": (rows(lambda label, box: row(label, *box, 0.9, 1)), None),
    "labels in NFD, images in NFC": (decomposed_labels, ALL),
    "pixels": (rows(lambda label, box: row(label, *(v * 60 for v in box))), None),
    "all outside": (rows(lambda label, box: row(label, 1.7, *box[1:])), None),
    "without area": (rows(lambda label, box: row(label, *box[:3], 0)), None),
    "negative sides": (rows(lambda label, box: row(label, *box[:2], -box[2], -box[3])), ALL),
    "boxes and polygons": (rows(lambda label, box: row(label, *box) if label else corners(label, box)), ALL),
    "numbers between commas": (rows(lambda label, box: f"{label}, " + ", ".join(map(str, box))), None),
    "a class that is a name": (rows(lambda label, box: row("cat", *box)), None),
    "a score in validation": (
        lambda root: [p.write_text(p.read_text().replace("\n", " 0.9\n")) for p in root.glob("labels/val/*")], None),
    "class names numbered from 1": (described(names={1: "cat", 2: "dog", 3: "owl"}), None),
    "class names by number": (described(names={"cat": 0, "dog": 1, "owl": 2}), None),
    "two classes of one name": (described(names=["cat", "cat", "owl"]), None),
    "class names that are numbers": (described(names=[1, 2.5, True]), ALL),
    "a list of images that is binary": (
        lambda root: ((root / "list.txt").write_bytes(b"\xff\xfe\x00"), described(train="list.txt")(root)), None),
    "labels that are binary": (lambda root: (root / "labels/train/a.txt").write_bytes(b"\xff\x80"), None),
    "class numbers as floats": (rows(lambda label, box: f"{label}.0 " + row(label, *box).partition(" ")[2]), ALL),
}  # fmt: skip


def image_files(root: Path) -> set[str]:
    """Names of the image files of training and validation."""
    return {p.name for p in root.rglob("*") if p.is_file() and p.suffix in (".png", ".PNG", "")}


def make(layout: str, kind: str, root: Path) -> int | None:
    """Write a dataset; returns how many objects of ``train`` are to be trained on, None for one to be refused."""
    spoil, objects = {"coco": COCO, "yolo": YOLO}[layout][kind]
    {"coco": build.write_coco, "yolo": build.write_yolo}[layout](root, content=CONTENT)
    spoil(root)
    return objects


CASES = [("coco", kind) for kind in COCO] + [("yolo", kind) for kind in YOLO]
