"""Formats with one annotation file per image: Pascal VOC (XML) and LabelMe (JSON).

Files are looked for anywhere below the folder. A folder in their path named ``train``, ``val`` or ``test``
determines the split; so do VOC's lists in ``ImageSets/Main``. An image has the name of its annotation file, in the
same folder or another, or the name given in the file.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from typing import Any

from ..errors import one_line
from .converted import ConvertedSplit, ForeignImage, ForeignObject, Parsed
from .image_files import list_images
from .values import read_flag, read_number
from .xml_files import parse_xml, root_tag
from .yolo import SPLIT_FOLDERS

_Reader = Callable[[str], tuple[ForeignImage, list[str]]]
_ALIASES = {alias: split for split, aliases in SPLIT_FOLDERS.items() for alias in aliases}


def find_voc(root: str) -> dict[str, ConvertedSplit]:
    """Splits of a folder with Pascal VOC's files; none if the first ``.xml`` is something else."""
    files = list(_files(root, ".xml"))
    if not files or root_tag(files[0]) != "annotation":
        return {}
    return _splits(root, files, read_voc, _image_sets(root, files) or _by_folder(root, files))


def find_labelme(root: str) -> dict[str, ConvertedSplit]:
    """Splits of a folder with LabelMe's files; none if the first ``.json`` is something else."""
    files = list(_files(root, ".json"))
    if not files or not is_labelme(files[0]):
        return {}
    return _splits(root, files, read_labelme, _by_folder(root, files))


def is_labelme(path: str) -> bool:
    """Whether a JSON file is one of LabelMe's."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_voc(path: str) -> tuple[ForeignImage, list[str]]:
    """An image with its objects, and the defects of objects.

    Boxes of the VOC challenges count pixels from 1 and include the last one; others are read unchanged. ``difficult``
    objects become crowds, which is how VOC's evaluation treats them.

    Raises:
        ValueError, OSError: as :func:`~sqr.data.xml_files.parse_xml`.
    """
    tree = parse_xml(path)
    one_based = (tree.findtext("source/database") or "").startswith("The VOC") or (
        (tree.findtext("folder") or "").startswith("VOC20")
    )
    image = ForeignImage(tree.findtext("filename") or "", tree.findtext("size/width"), tree.findtext("size/height"))
    problems = []
    for item in tree.iter("object"):
        corners: list[Any] = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        difficult = read_flag(item.findtext("difficult"))
        if difficult is None:
            problems.append(f"'difficult' is {item.findtext('difficult')!r}, not 0 or 1")
            continue
        if one_based and None not in (numbers := [read_number(v) for v in corners]):
            corners = [numbers[0] - 1, numbers[1] - 1, *numbers[2:]]
        image.objects.append(ForeignObject(item.findtext("name"), corners, difficult))
    return image, problems


def read_labelme(path: str) -> tuple[ForeignImage, list[str]]:
    """An image with its shapes as bounding boxes, and the defects of shapes.

    Raises:
        ValueError: not a LabelMe file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not valid JSON: {one_line(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError("it has no list 'shapes', as LabelMe's files have")
    name = content.get("imagePath")
    image = ForeignImage(name if isinstance(name, str) else "", content.get("imageWidth"), content.get("imageHeight"))
    problems = []
    for index, shape in enumerate(content["shapes"]):
        points = _points(shape)
        if points is None:
            problems.append(f"shapes[{index}] has no points [x, y]")
            continue
        if shape.get("shape_type") == "circle" and len(points) == 2:
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        xs, ys = zip(*points, strict=True)
        image.objects.append(ForeignObject(shape.get("label"), [min(xs), min(ys), max(xs), max(ys)]))
    return image, problems


def _points(shape: Any) -> list[tuple[float, float]] | None:
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list) or not points or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None
    numbers = [(read_number(x), read_number(y)) for x, y in points]
    return None if any(None in point for point in numbers) else numbers


# ---------------------------------------------------------------------- files, splits, images


def _files(root: str, suffix: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(suffix))


def _by_folder(root: str, files: Iterable[str]) -> dict[str, list[str]]:
    """Files by the split that a folder in their path names; all are ``train`` if none does."""
    splits: dict[str, list[str]] = {}
    for path in files:
        splits.setdefault(_split_of(root, path) or "train", []).append(path)
    return splits


def _split_of(root: str, path: str) -> str | None:
    folders = os.path.relpath(os.path.dirname(path), root).split(os.sep)
    return next((_ALIASES[f.lower()] for f in folders if f.lower() in _ALIASES), None)


def _image_sets(root: str, files: list[str]) -> dict[str, list[str]]:
    """Files by VOC's lists of names; empty where there are no lists."""
    by_stem = {os.path.splitext(os.path.basename(path))[0]: path for path in files}
    splits: dict[str, list[str]] = {}
    for path in _files(root, ".txt"):
        split = _ALIASES.get(os.path.splitext(os.path.basename(path))[0].lower())
        if split and os.path.basename(os.path.dirname(path)) == "Main":
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                stems = [_listed(line.strip(), by_stem) for line in file if line.strip()]
            folder = os.path.dirname(files[0])
            splits[split] = [by_stem.get(stem, os.path.join(folder, f"{stem}.xml")) for stem in stems]
    return splits


def _listed(line: str, known: Container[str]) -> str:
    """The name in a line of a list: the whole line without a file extension, or the word before VOC's 1 or -1."""
    word = line.split()[0]
    return next((stem for stem in (line, os.path.splitext(line)[0], word) if stem in known), word)


def _splits(root: str, files: list[str], reader: _Reader, splits: dict[str, list[str]]) -> dict[str, ConvertedSplit]:
    whole = len(splits) == 1
    parsers = {
        name: partial(_parse, root, tuple(paths), reader, None if whole else name) for name, paths in splits.items()
    }
    return {
        name: ConvertedSplit(os.path.dirname(files[0]), root, parser, tuple(p for n, p in parsers.items() if n != name))
        for name, parser in parsers.items()
    }


def _parse(root: str, files: tuple[str, ...], reader: _Reader, split: str | None) -> Parsed:
    parsed = Parsed()
    images = _ImageIndex(root)
    for path in files:
        relative = os.path.relpath(path, root)
        try:
            image, problems = reader(path)
        except (ValueError, OSError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            parsed.problems.append(("unreadable_annotations", relative, text))
            continue
        image.file_name = images.of(path, image.file_name)
        parsed.images.append(image)
        parsed.problems += [("bad_label", relative, text) for text in problems]
    for path in images.left_over(split):
        parsed.problems.append(("image_without_label", path, "no annotation file; left out"))
    return parsed


class _ImageIndex:
    """The images below a folder, by their names without suffix."""

    def __init__(self, root: str):
        self.root = root
        self.by_stem: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for path in list_images(root):
            relative = os.path.relpath(path, root)
            self.by_stem.setdefault(_stem(relative), []).append(relative)

    def of(self, annotation: str, stated: str) -> str:
        """The image of an annotation file; the name given in the file if there is none."""
        relative = os.path.relpath(annotation, self.root)
        stated = stated.replace("\\", "/")
        candidates = (
            self.by_stem.get(_stem(relative))
            or self.by_stem.get(_stem(os.path.splitext(relative)[0]))
            or self.by_stem.get(_stem(stated))
            or [stated or os.path.splitext(relative)[0]]
        )
        best = max(candidates, key=lambda path: (_shared_folders(path, relative), os.path.basename(path) == stated))
        self.used.add(best)
        return best

    def left_over(self, split: str | None) -> list[str]:
        """Images of a split without an annotation file; of all splits if it is None."""
        paths = sorted(path for group in self.by_stem.values() for path in group if path not in self.used)
        return [path for path in paths if split is None or _split_of(self.root, os.path.join(self.root, path)) == split]


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(os.path.basename(path))[0]).casefold()


def _shared_folders(a: str, b: str) -> int:
    return len(set(os.path.dirname(a).split(os.sep)) & set(os.path.dirname(b).split(os.sep)))
