"""Reads a split as far as it can be read, noting what is wrong instead of stopping."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ...errors import one_line
from .. import yolo
from ..coco_files import is_box, is_complete
from ..layouts import CocoSplit, YoloSplit
from .defects import Defect


@dataclass
class ObjectRecord:
    """One annotated object.

    Attributes:
        category: class name.
        box: ``[x, y, width, height]``, in pixels; until :func:`~.inspection.inspect_dataset` has seen the image, of a
            YOLO split ``[cx, cy, width, height]`` as shares of the image.
        crowd: a region of many objects.
    """

    category: str
    box: list[float]
    crowd: bool = False


@dataclass
class ImageRecord:
    """One image: its name in the split, where it lies, the ``(width, height)`` its annotations say, its objects."""

    file_name: str
    path: str
    size: tuple[int, int] | None
    objects: list[ObjectRecord] = field(default_factory=list)


@dataclass
class SplitRecord:
    """What could be read of a split.

    Attributes:
        name: of the split.
        source: the annotation file or ``data.yaml``.
        classes: names in the order of their class numbers.
        images: each with its objects.
        defects: what was found wrong while reading.
        placeholder: a class that Roboflow adds as the group of all others; no object is of it.
    """

    name: str
    source: str
    classes: list[str] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    placeholder: str | None = None

    def note(self, kind: str, file: str, text: str) -> None:
        """Add a defect."""
        self.defects.append(Defect(kind, self.name, file, text))


def read_split(name: str, split: CocoSplit | YoloSplit) -> SplitRecord:
    """Read the annotations of a split; no image is opened."""
    if isinstance(split, YoloSplit):
        return _read_yolo(name, split)
    record = SplitRecord(name, split.annotations)
    content = _load(record)
    if content is not None:
        _CocoReader(record, split, content).read()
    return record


# ---------------------------------------------------------------------- COCO


def _load(record: SplitRecord) -> dict | None:
    try:
        with open(record.source) as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        record.note("unreadable_annotations", record.source, f"no valid JSON: {one_line(error)}")
        return None
    lacking = [k for k in ("images", "categories") if not isinstance(content, dict) or not content.get(k)]
    if lacking:
        record.note("unreadable_annotations", record.source, f"no {' and no '.join(repr(k) for k in lacking)} in it")
        return None
    return content


# What fields must be where there is one; a bool is an int to Python, and harmless.
_TYPES = {"id": (int, str), "image_id": (int, str), "category_id": (int, str), "file_name": str,
          "width": (int, float), "height": (int, float), "name": (str, int)}  # fmt: skip


class _CocoReader:
    """One pass over a COCO file's three lists."""

    def __init__(self, record: SplitRecord, split: CocoSplit, content: dict):
        self.record, self.split, self.content = record, split, content
        self.images: dict[Any, ImageRecord] = {}
        self.categories: dict[Any, str] = {}

    def read(self) -> None:
        self._read_categories()
        self._read_images()
        used = self._read_annotations()
        self.record.placeholder = self._placeholder(used)

    def _valid(self, key: str, needed: tuple[str, ...]) -> list[dict]:
        """The records of a list that have what is needed; the others are noted."""
        valid = []
        for index, record in enumerate(self.content.get(key) or ()):
            lacking = [k for k in needed if not isinstance(record, dict) or not isinstance(record.get(k), _TYPES[k])]
            if lacking:
                text = f"{key}[{index}] has no usable {', '.join(lacking)}"
                self.record.note("missing_field", self._file_of(record), text)
            else:
                valid.append(record)
        return valid

    def _file_of(self, record: Any) -> str:
        return str(record.get("file_name", self.record.source)) if isinstance(record, dict) else self.record.source

    def _read_categories(self) -> None:
        for category in self._valid("categories", ("id", "name")):
            if category["id"] in self.categories:
                self.record.note("duplicate_category_id", self.record.source, f"category id {category['id']}")
            self.categories.setdefault(category["id"], str(category["name"]))
        ids = sorted(self.categories, key=lambda i: (isinstance(i, str), i))
        self.record.classes = [self.categories[i] for i in ids]

    def _read_images(self) -> None:
        images = self._valid("images", ("id", "file_name", "width", "height"))
        folder = self.split.image_folder(images[0]["file_name"]) if images else self.split.image_folders[0]
        seen: set[str] = set()
        for image in images:
            name = image["file_name"]
            if image["id"] in self.images:
                self.record.note("duplicate_image_id", name, f"image id {image['id']}")
                continue
            if name in seen:
                self.record.note("repeated_image", name, f"again as image id {image['id']}")
            seen.add(name)
            size = (image["width"], image["height"])
            self.images[image["id"]] = ImageRecord(name, os.path.join(folder, name), size)
        self.record.images = list(self.images.values())

    def _read_annotations(self) -> set[str]:
        """Attach objects to their images; returns the names of categories that have one."""
        ids, used = set(), set()
        for annotation in self._valid("annotations", ("id", "image_id", "category_id")):
            image = self.images.get(annotation["image_id"])
            file = image.file_name if image else self.record.source
            label = f"annotation {annotation['id']}"
            if annotation["id"] in ids:
                self.record.note("duplicate_annotation_id", file, label)
            ids.add(annotation["id"])
            category = self.categories.get(annotation["category_id"])
            if image is None:
                self.record.note("unknown_image", file, f"{label}: image_id {annotation['image_id']}")
            elif category is None:
                self.record.note("unknown_category", file, f"{label}: category_id {annotation['category_id']}")
            elif not is_box(annotation.get("bbox")):
                self.record.note("bad_box", file, f"{label}: bbox {annotation.get('bbox')}")
            else:
                used.add(category)
                image.objects.append(self._object(annotation, category, file, label))
        return used

    def _object(self, annotation: dict, category: str, file: str, label: str) -> ObjectRecord:
        if annotation.get("ignore", 0):
            self.record.note("ignore_flag", file, label)
        polygons = annotation.get("segmentation")
        if isinstance(polygons, list) and polygons and not any(map(_is_polygon, polygons)):
            self.record.note("invalid_segmentation", file, label)
        if not is_complete(annotation):
            self.record.note("incomplete_annotation", file, label)
        crowd = bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0))
        return ObjectRecord(category, [float(v) for v in annotation["bbox"]], crowd)

    def _placeholder(self, used: set[str]) -> str | None:
        groups = {c.get("supercategory") for c in self.content["categories"] if isinstance(c, dict)}
        first = self.record.classes[0] if self.record.classes else None
        return first if 0 in self.categories and first in groups and first not in used else None


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 2 == 0 and len(value) >= 6


# ---------------------------------------------------------------------- YOLO


def _read_yolo(name: str, split: YoloSplit) -> SplitRecord:
    description = split.description
    record = SplitRecord(name, description.path, list(description.names))
    paths = yolo.list_images(description.sources[split.split])
    for path in paths:
        image = ImageRecord(os.path.relpath(path, description.root), path, None)
        rows, problems = yolo.read_labels(yolo.label_file(path), len(description.names))
        image.objects = [ObjectRecord(description.names[row.label], list(row.box)) for row in rows]
        for problem in problems:
            record.note(problem.kind, os.path.relpath(path, description.root), str(problem))
        record.images.append(image)
    _note_lone_labels(record, paths)
    return record


def _note_lone_labels(record: SplitRecord, paths: list[str]) -> None:
    expected = {yolo.label_file(path) for path in paths}
    for folder in sorted({os.path.dirname(label) for label in expected}):
        if os.path.isdir(folder):
            for name in sorted(os.listdir(folder)):
                label = os.path.join(folder, name)
                if name.endswith(".txt") and name != "classes.txt" and label not in expected:
                    record.note("label_without_image", label, "no image of this name")
