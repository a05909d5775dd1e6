"""Datasets in YOLO's layout: a ``data.yaml``, images, and one text file of labels per image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from ..errors import one_line
from .coco_files import CocoReader
from .image_files import ImageFinder, image_sizes, list_images
from .images import UnreadableImageError
from .records import SplitRecord, raise_errors
from .records import coco_content as content_of
from .values import read_id, read_name
from .yolo_labels import LabelRow, absolute_box, ambiguous_row, label_file, read_labels

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_TASKS = ("detect", "segment", "pose", "obb")


@dataclass(frozen=True)
class YoloDescription:
    """The content of a ``data.yaml``.

    Attributes:
        path: of the file.
        names: class names in the order of their numbers.
        sources: folders of images, and text files that list images, by split.
        keypoint_values: numbers of an object's keypoints, which follow its box in a row of a pose dataset; 0
            without keypoints.
        polygons: the file has ``task: segment`` or ``obb``, so long rows of numbers are polygons.
    """

    path: str
    names: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]
    keypoint_values: int = 0
    polygons: bool = False

    @property
    def root(self) -> str:
        """The folder to which image names are relative."""
        return os.path.dirname(os.path.abspath(self.path))


def find_description(root: str) -> str | None:
    """The path of a folder's description: ``data.yaml``, ``dataset.yaml``, or any YAML file that names classes."""
    names = sorted(n for n in os.listdir(root) if n.lower().endswith((".yaml", ".yml")))
    names.sort(key=lambda n: (n.rpartition(".")[0] != "data", n.rpartition(".")[0] != "dataset"))
    for path in (os.path.join(root, name) for name in names):
        try:
            content = _load(path)
        except (ValueError, OSError):
            content = {"names": None} if os.path.basename(path).startswith("data") else None  # its reader says why
        if isinstance(content, dict) and ("names" in content or "nc" in content):
            return path
    return None


def _load(path: str):
    with open(path, encoding="utf-8-sig") as file:
        try:
            return yaml.safe_load(file)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid YAML: {one_line(error)}") from None


def read_description(path: str) -> YoloDescription:
    """Read a ``data.yaml`` and find its images, even if its paths are from another machine.

    Raises:
        ValueError: invalid YAML, class names that are neither a list nor a numbered dict or do not agree with ``nc``,
            or an invalid ``kpt_shape``.
        FileNotFoundError: the images of a split it names cannot be found.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not keys such as 'names' and 'train'")
    sources = {}
    for split, folders in SPLIT_FOLDERS.items():
        key = next((k for k in (split, *folders) if content.get(k)), None)
        found = _find_sources(path, content, key, folders)
        if found:
            sources[split] = found
    task = content.get("task")
    if task is not None and task not in _TASKS:
        raise ValueError(f"{path}: 'task' is {task!r}, not one of {', '.join(_TASKS)}")
    keypoints = _keypoint_values(path, content.get("kpt_shape"))
    return YoloDescription(path, _class_names(path, content), sources, keypoints, task in ("segment", "obb"))


def _keypoint_values(path: str, shape: object) -> int:
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)) or (
        shape[0] < 1 or shape[1] not in (2, 3)
    ):
        raise ValueError(f"{path}: 'kpt_shape' must be [number of keypoints, 2 or 3], got {shape}")
    return shape[0] * shape[1]


def _class_names(path: str, content: dict) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and 0 < count < 100_000:
        return tuple(f"class_{i}" for i in range(count))
    if isinstance(names, dict):
        numbered = {read_id(key): name for key, name in names.items()}
        if not all(isinstance(key, int) for key in numbered):
            raise ValueError(f"{path}: the keys of 'names' must be class numbers, got {list(names)[:5]}")
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(
                f"{path}: 'names' must number the classes 0 to {len(numbered) - 1}, got {sorted(numbered)[:20]}"
            )
        names = [numbered[i] for i in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: 'names' must be a list of class names, or a dict from 0, 1, ... to them")
    if isinstance(count, int) and count != len(names):
        raise ValueError(f"{path}: 'nc' is {count}, but 'names' has {len(names)} classes")
    # YAML does not read the class names no, on and 1.5 as text
    read = [read_name(name if isinstance(name, str) or name is None else str(name)) for name in names]
    if None in read:
        raise ValueError(f"{path}: the name of class {read.index(None)} is empty")
    return tuple(read)


def _find_sources(path: str, content: dict, key: str | None, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Existing folders and list files of a split: those named, or the usual locations of other tools."""
    base = os.path.dirname(os.path.abspath(path))
    entries = content.get(key) if key else []
    entries = [str(e) for e in (entries if isinstance(entries, list) else [entries])]
    named = [_existing(entry, base, str(content.get("path") or "")) for entry in entries]
    if named and all(named):
        return tuple(named)
    usual = [os.path.join(base, *p) for f in folders for p in (("images", f), (f, "images"), (f,))]
    for folder in usual:
        if os.path.isdir(folder):
            return (folder,)
    if entries:
        raise FileNotFoundError(
            f"{path}: its {key}: {entries[named.index(None)]!r} is not there, neither below the file's folder nor "
            f"below its 'path'; also looked for {', '.join(os.path.relpath(f, base) for f in usual)}"
        )
    return ()


def _existing(entry: str, base: str, path: str) -> str | None:
    if "\0" in entry + path:
        return None
    entry = entry.replace("\\", "/")
    inside = entry
    while inside.startswith("../"):  # exports of Roboflow: relative to a folder below this one
        inside = inside[3:]
    places = [os.path.join(base, path, entry), os.path.join(path, entry) if os.path.isabs(path) else ""]
    places += [os.path.join(base, entry), os.path.join(base, inside)]
    return next((os.path.normpath(p) for p in places if p and os.path.exists(p)), None)


def listed_images(sources: Iterable[str]) -> list[str]:
    """Paths of the images in folders, searched to any depth, and in list files; sorted, each once.

    Raises:
        ValueError: a list file that is not text.
    """
    found: set[str] = set()
    for source in sources:
        if os.path.isdir(source):
            found.update(list_images(source))
            continue
        try:
            with open(source, encoding="utf-8-sig") as file:
                lines = [line.strip().replace("\\", "/") for line in file]
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is no list of images: {one_line(error)}") from None
        found |= {os.path.normpath(os.path.join(os.path.dirname(source), line)) for line in lines if line}
    return sorted(found)


def read_yolo(name: str, description: YoloDescription, split: str) -> SplitRecord:
    """Read a split as records; image names are relative to the description's folder."""
    record = SplitRecord(name, description.path, description.root, as_is=False)
    paths = listed_images(description.sources[split])
    labels = _label_files(paths)
    images, annotations, all_rows = [], [], []
    for number, (path, size) in enumerate(zip(paths, image_sizes(paths), strict=True), start=1):
        file_name = _relative(path, description)
        known = not isinstance(size, UnreadableImageError)
        if not known and os.path.isfile(path):
            record.note("undecodable_image", file_name, str(size))
        width, height = size if known else (None, None)
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        rows, problems = read_labels(labels[path], len(description.names), keypoint_values=description.keypoint_values)
        for problem in problems:
            record.drop(problem.kind, file_name, str(problem))
        all_rows += [(path, row) for row in rows]
        for row in rows if known else ():
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": row.label + 1,
                                "bbox": absolute_box(row, size), "iscrowd": 0})  # fmt: skip
    categories = [{"id": i, "name": n} for i, n in enumerate(description.names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    CocoReader(record, content, ImageFinder(description.root), native=False).read()
    if not description.polygons:
        _note_ambiguity(record, description, all_rows, labels)
    if not record.images:
        record.note("no_images", description.path, f"no images in {', '.join(description.sources[split])}")
    elif not any(map(os.path.isfile, labels.values())):
        record.hint = f"; labels looked for: {labels[paths[0]]}, ..."
    _note_lone_labels(record, set(labels.values()))
    return record


def _relative(path: str, description: YoloDescription) -> str:
    relative = os.path.relpath(path, description.root)
    return path if relative.startswith("..") else relative


def _label_files(images: list[str]) -> dict[str, str]:
    """The label file of each image, also in another Unicode form or case; if there is none, its usual path."""
    finders: dict[str, ImageFinder] = {}
    files = {}
    for image in images:
        folder, name = os.path.split(label_file(image))
        finder = finders.setdefault(folder, ImageFinder(folder))
        files[image] = os.path.join(folder, finder.find(name) or name)
    return files


def _note_ambiguity(
    record: SplitRecord, description: YoloDescription, rows: list[tuple[str, LabelRow]], labels: dict[str, str]
) -> None:
    row = ambiguous_row([row for _, row in rows])
    if row is not None:
        path = next(path for path, other in rows if other is row)
        text = f"{labels[path]}: polygons, or {row.doubt}? Set kpt_shape: [keypoints, values] or task: segment in "
        record.note("bad_label", _relative(path, description), text + os.path.basename(description.path))


def _note_lone_labels(record: SplitRecord, expected: set[str]) -> None:
    for folder in sorted({os.path.dirname(label) for label in expected}):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            label = os.path.join(folder, name)
            if name.endswith(".txt") and name != "classes.txt" and label not in expected:
                record.note("label_without_image", label, "no image of this name")


def coco_content(description: YoloDescription, split: str) -> dict:
    """A split in COCO's format.

    Raises:
        FileNotFoundError, ValueError: as :func:`~sqr.data.records.raise_errors`.
    """
    record = read_yolo(split, description, split)
    raise_errors(record)
    return content_of(record)
