"""Datasets in YOLO's layout: a ``data.yaml``, images, and one text file of labels an image.

Nothing is written here: what training needs is brought to COCO's format in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import yaml
from PIL import Image

from ..errors import one_line
from .images import UnreadableImageError, upright_size, why_unreadable

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_READERS = 8  # threads that read image headers: mostly waiting for the disk


@dataclass(frozen=True)
class YoloDescription:
    """What a ``data.yaml`` says.

    Attributes:
        path: of the file.
        names: class names in the order of their numbers.
        sources: folders of images, and text files that list images, by split.
    """

    path: str
    names: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]

    @property
    def root(self) -> str:
        """The folder that image names are relative to."""
        return os.path.dirname(os.path.abspath(self.path))


@dataclass(frozen=True)
class LabelRow:
    """One object: class number, and ``(cx, cy, width, height)`` as shares of the image."""

    label: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelProblem:
    """A row that is no object. ``kind``: ``bad_label``, ``bad_box`` or ``unknown_category``."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def find_description(root: str) -> str | None:
    """The path of a folder's description: ``data.yaml``, ``dataset.yaml``, or any YAML file that names classes."""
    names = sorted(n for n in os.listdir(root) if n.lower().endswith((".yaml", ".yml")))
    names.sort(key=lambda n: (n.rpartition(".")[0] != "data", n.rpartition(".")[0] != "dataset"))
    for path in (os.path.join(root, name) for name in names):
        try:
            with open(path, encoding="utf-8-sig") as file:
                content = yaml.safe_load(file)
        except (yaml.YAMLError, OSError, UnicodeDecodeError):
            content = {"names": None} if os.path.basename(path).startswith("data") else None  # its reader says why
        if isinstance(content, dict) and ("names" in content or "nc" in content):
            return path
    return None


def read_description(path: str) -> YoloDescription:
    """Read a ``data.yaml`` and find its images, also where its paths are those of another machine.

    Raises:
        ValueError: no valid YAML, or class names that are no list and no numbered dict, or do not agree with ``nc``.
        FileNotFoundError: the images of a split it names are nowhere to be found.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            content = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not keys such as 'names' and 'train'")
    sources = {}
    for split, folders in SPLIT_FOLDERS.items():
        key = next((k for k in (split, *folders) if content.get(k)), None)
        found = _find_sources(path, content, key, folders)
        if found:
            sources[split] = found
    return YoloDescription(path, _class_names(path, content), sources)


def _class_names(path: str, content: dict) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and count > 0:
        return tuple(f"class_{i}" for i in range(count))
    if isinstance(names, dict):
        try:
            numbered = {int(k): str(v) for k, v in names.items()}
        except (TypeError, ValueError):
            raise ValueError(f"{path}: the keys of 'names' must be class numbers, got {list(names)[:5]}") from None
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(
                f"{path}: 'names' must number the classes 0 to {len(numbered) - 1}, got {sorted(numbered)}"
            )
        names = [numbered[i] for i in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: 'names' must be a list of class names, or a dict from 0, 1, ... to them")
    if isinstance(count, int) and count != len(names):
        raise ValueError(f"{path}: 'nc' is {count}, but 'names' has {len(names)} classes")
    return tuple(str(name) for name in names)


def _find_sources(path: str, content: dict, key: str | None, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Existing folders and list files of a split: those named, else those where other tools put them."""
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
    inside = entry
    while inside.startswith("../"):  # exports of Roboflow: relative to a folder below this one
        inside = inside[3:]
    places = [os.path.join(base, path, entry), os.path.join(path, entry) if os.path.isabs(path) else ""]
    places += [os.path.join(base, entry), os.path.join(base, inside)]
    return next((os.path.normpath(p) for p in places if p and os.path.exists(p)), None)


def list_images(sources: Iterable[str]) -> list[str]:
    """Paths of the images in folders, searched to any depth, and in list files; sorted, each once."""
    found: set[str] = set()
    for source in sources:
        if os.path.isdir(source):
            for folder, _, names in os.walk(source):
                found |= {os.path.join(folder, n) for n in names if n.lower().endswith(IMAGE_SUFFIXES)}
        else:
            with open(source, encoding="utf-8-sig") as file:
                lines = [line.strip() for line in file]
            found |= {os.path.normpath(os.path.join(os.path.dirname(source), line)) for line in lines if line}
    return sorted(found)


def label_file(image: str) -> str:
    """Where an image's labels are: the last folder ``images`` of its path becomes ``labels``."""
    parts = image.split(os.sep)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return os.path.splitext(os.sep.join(parts))[0] + ".txt"


def read_labels(path: str, num_classes: int) -> tuple[list[LabelRow], list[LabelProblem]]:
    """The objects of a label file; none where there is no file. A polygon counts as the box around it.

    Returns:
        Rows as they stand, also those outside the image, and rows that are no object at all.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError) as error:
        return [], [LabelProblem("bad_label", path, f"cannot be read: {one_line(error)}")]
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = _parse_row(line.split(), f"{path} line {number}", num_classes)
        (rows if isinstance(parsed, LabelRow) else problems).append(parsed)
    return rows, problems


def _parse_row(fields: list[str], place: str, num_classes: int) -> LabelRow | LabelProblem:
    try:
        label, *numbers = (float(field) for field in fields)
    except ValueError:
        return LabelProblem("bad_label", place, f"{' '.join(fields)[:60]!r} holds something that is no number")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        return LabelProblem(
            "bad_label", place, f"{len(fields)} numbers; a row is a class and cx cy width height, or a polygon"
        )
    if not all(map(math.isfinite, numbers)):
        return LabelProblem("bad_box", place, "a coordinate is not finite")
    if not math.isfinite(label) or label != int(label) or not 0 <= label < num_classes:
        return LabelProblem(
            "unknown_category", place, f"class {fields[0]}, but there are classes 0 to {num_classes - 1}"
        )
    if len(numbers) == 4:
        return LabelRow(int(label), tuple(numbers))
    (left, right), (top, bottom) = ((min(v), max(v)) for v in (numbers[::2], numbers[1::2]))
    return LabelRow(int(label), ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top))


def absolute_box(row: LabelRow, size: tuple[int, int]) -> list[float]:
    """``[x, y, width, height]`` in pixels, not clipped, rounded to 1e-4 px."""
    (cx, cy, w, h), (width, height) = row.box, size
    return [round(v, 4) for v in ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)]


def image_sizes(paths: list[str]) -> list[tuple[int, int] | UnreadableImageError]:
    """``(width, height)``, upright, of each image, from its header; the error of one that has none."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_image_size, paths))


def _image_size(path: str) -> tuple[int, int] | UnreadableImageError:
    try:
        stat = os.stat(path)
        return _size_in_header(path, stat.st_mtime_ns, stat.st_size)
    except Exception as error:  # PIL's parsers raise errors of many kinds on broken files
        return UnreadableImageError(f"cannot read the image {path}: {why_unreadable(error)}")


@lru_cache(maxsize=1 << 20)
def _size_in_header(path: str, mtime_ns: int, size: int) -> tuple[int, int]:
    """``mtime_ns`` and ``size`` are part of the key only: a changed file is read again."""
    with Image.open(path) as image:
        return upright_size(image)


def coco_content(description: YoloDescription, split: str) -> dict:
    """A split in COCO's format: ids from 1, file names relative to the description's folder, boxes clipped.

    Boxes of which nothing lies in the image are left out.

    Raises:
        UnreadableImageError: an image has no readable header.
        ValueError: there is no image, or a row of labels is none; the message counts them and shows the first.
    """
    paths = list_images(description.sources[split])
    if not paths:
        raise ValueError(f"{description.path}: no images in {', '.join(description.sources[split])}")
    sizes = image_sizes(paths)
    images, annotations, problems = [], [], []
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True), start=1):
        if isinstance(size, UnreadableImageError):
            raise size
        name = os.path.relpath(path, description.root)
        images.append({"id": number, "file_name": name if not name.startswith("..") else path,
                       "width": size[0], "height": size[1]})  # fmt: skip
        rows, broken = read_labels(label_file(path), len(description.names))
        problems += broken
        annotations += _annotations(rows, number, size, len(annotations) + 1)
    if problems:
        raise ValueError(
            f"{problems[0]}" + (f" (and {len(problems) - 1} more rows)" if len(problems) > 1 else "")
            + "; tools/check_dataset.py lists them all, --fix leaves them out"
        )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(description.names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(rows: list[LabelRow], image_id: int, size: tuple[int, int], first_id: int) -> Iterator[dict]:
    number = first_id
    for row in rows:
        x, y, w, h = clip_box(absolute_box(row, size), size)
        if w > 0 and h > 0:
            yield {"id": number, "image_id": image_id, "category_id": row.label + 1, "bbox": [x, y, w, h],
                   "area": w * h, "iscrowd": 0}  # fmt: skip
            number += 1


def clip_box(box: list[float], size: tuple[int, int]) -> list[float]:
    """``[x, y, width, height]`` cut to the image; width or height is 0 or less where nothing is left."""
    (x, y, w, h), (width, height) = box, size
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + w, width) - left, min(y + h, height) - top]
