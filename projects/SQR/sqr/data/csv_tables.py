"""Boxes in CSV files, one per row, with a header as in TensorFlow's and Roboflow's exports, or without."""

from __future__ import annotations

import csv
import os
from functools import partial
from glob import escape, glob

from ..errors import one_line
from .converted import ConvertedSplit, ForeignImage, ForeignObject, Parsed
from .image_files import ImageFinder
from .values import read_number
from .yolo import SPLIT_FOLDERS

_ALIASES = {alias: split for split, aliases in SPLIT_FOLDERS.items() for alias in aliases}
# the accepted names of each column; without a header the six columns are path, left, top, right, bottom, class
_NAMES = {
    "file": ("filename", "file_name", "image", "image_name", "image_path", "path", "file", "image_id"),
    "label": ("class", "label", "class_name", "category", "name", "label_name"),
    "left": ("xmin", "x_min", "x1", "left", "bbox_x", "x"),
    "top": ("ymin", "y_min", "y1", "top", "bbox_y", "y"),
    "right": ("xmax", "x_max", "x2", "right"),
    "bottom": ("ymax", "y_max", "y2", "bottom"),
    "box_width": ("bbox_width", "w", "box_width"),
    "box_height": ("bbox_height", "h", "box_height"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
_NEEDED = (
    {"file", "label", "left", "top", "right", "bottom"},
    {"file", "label", "left", "top", "box_width", "box_height"},
)
_BARE = {"file": 0, "left": 1, "top": 2, "right": 3, "bottom": 4, "label": 5}


def find_csv(root: str) -> dict[str, ConvertedSplit]:
    """Splits of the ``.csv`` files in a folder and its subfolders; a single file is ``train``."""
    paths = sorted(glob(os.path.join(escape(root), "*.csv")) + glob(os.path.join(escape(root), "*", "*.csv")))
    tables = {path: _split_of(root, path) for path in paths if _columns(_first_row(path)) is not None}
    if len(tables) == 1:
        tables = {path: split or "train" for path, split in tables.items()}
    parsers = {split: partial(parse_csv, path, root) for path, split in tables.items() if split}
    sources = {split: path for path, split in tables.items() if split}
    return {
        split: ConvertedSplit(sources[split], root, parser, tuple(p for s, p in parsers.items() if s != split))
        for split, parser in parsers.items()
    }


def _split_of(root: str, path: str) -> str | None:
    stem = os.path.splitext(os.path.basename(path))[0].lower()
    words = [*os.path.relpath(os.path.dirname(path), root).lower().split(os.sep), *stem.replace("-", "_").split("_")]
    return next((_ALIASES[word] for word in words if word in _ALIASES), None)


def _first_row(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return next(_rows(file), [])
    except (OSError, ValueError, csv.Error):
        return []


def _rows(file):
    start = file.read(4096)
    file.seek(0)
    first = start.partition("\n")[0]
    return csv.reader(file, delimiter=max(",;\t", key=first.count))


def _columns(header: list[str]) -> dict[str, int] | None:
    """Positions of the known columns, with or without a header; None if it is not a table of boxes."""
    names = [name.strip().lower() for name in header]
    columns = {key: names.index(n) for key, known in _NAMES.items() for n in reversed(known) if n in names}
    if any(needed <= columns.keys() for needed in _NEEDED):
        return columns
    bare = len(header) == 6 and (all(read_number(v) is not None for v in header[1:5]) or not any(header[1:]))
    return dict(_BARE) if bare else None


def parse_csv(path: str, root: str) -> Parsed:
    """The images of a table in the order of their first rows; a row without a box is an image without objects."""
    images: dict[str, ForeignImage] = {}
    problems = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(file))
    except (OSError, ValueError, csv.Error) as error:
        return Parsed(problems=[("unreadable_annotations", path, one_line(error))])
    columns = _columns(rows[0]) if rows else None
    if columns is None:
        return Parsed(problems=[("unreadable_annotations", path, "no columns for file, class and box are recognised")])
    finder = ImageFinder(root)
    has_header = read_number(rows[0][columns["left"]]) is None and rows[0][columns["left"]] != ""
    for number, row in enumerate(rows[has_header:], start=1 + has_header):
        if not any(row):
            continue
        if len(row) <= max(columns.values()):
            problems.append(("bad_label", path, f"row {number} has only {len(row)} columns"))
            continue
        cell = {key: row[i].strip() for key, i in columns.items()}
        name = _placed(finder, path, cell["file"])
        image = images.setdefault(name, ForeignImage(name, cell.get("width"), cell.get("height")))
        if cell["label"] or cell["left"]:
            image.objects.append(ForeignObject(cell["label"], _corners(cell)))
    return Parsed(list(images.values()), problems)


def _corners(cell: dict[str, str]) -> list[float | str | None]:
    if "right" in cell:
        return [cell["left"], cell["top"], cell["right"], cell["bottom"]]
    x, y, w, h = (read_number(cell[key]) for key in ("left", "top", "box_width", "box_height"))
    return [None] if None in (x, y, w, h) else [x, y, x + w, y + h]


def _placed(finder: ImageFinder, table: str, name: str) -> str:
    """An image's path below the root: as given, beside the table, or in a folder named after the split."""
    beside = os.path.relpath(os.path.dirname(table), finder.folder)
    split = _split_of(finder.folder, table) or "train"
    folders = [f for alias in SPLIT_FOLDERS.get(split, ()) for f in (alias, f"images/{alias}", f"{alias}/images")]
    return finder.first(name, ("", beside, "images", *folders))
