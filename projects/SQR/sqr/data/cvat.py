"""CVAT's ``annotations.xml`` ("CVAT for images"): all images of one or several splits in a file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from glob import escape, glob
from xml.etree.ElementTree import Element

from ..errors import one_line
from .converted import ConvertedSplit, ForeignImage, ForeignObject, Parsed
from .image_files import ImageFinder
from .values import read_number
from .xml_files import parse_xml, root_tag
from .yolo import SPLIT_FOLDERS

_SHAPES = ("box", "polygon", "polyline", "ellipse")
_ALIASES = {alias: split for split, aliases in SPLIT_FOLDERS.items() for alias in aliases}


def find_cvat(root: str) -> dict[str, ConvertedSplit]:
    """Splits of the first file in a folder, or in its folder ``annotations``, that is one of CVAT's."""
    paths = sorted(glob(os.path.join(escape(root), "*.xml")) + glob(os.path.join(escape(root), "annotations", "*.xml")))
    return next((cvat_splits(path, root) for path in paths if root_tag(path) == "annotations"), {})


def cvat_splits(path: str, root: str) -> dict[str, ConvertedSplit]:
    """The splits of a file: its subsets, else ``train``."""
    try:
        subsets = dict.fromkeys(_subset(image) for image in parse_xml(path).iter("image")) or {"train": None}
    except (ValueError, OSError):
        subsets = {"train": None}  # errors are reported when it is read
    parsers = {subset: partial(parse_cvat, path, root, subset) for subset in subsets}
    return {
        subset: ConvertedSplit(path, root, parser, tuple(p for s, p in parsers.items() if s != subset))
        for subset, parser in parsers.items()
    }


def _subset(image: Element) -> str:
    name = (image.get("subset") or "train").lower()
    return _ALIASES.get(name, "train" if name == "default" else name)


def parse_cvat(path: str, root: str, subset: str) -> Parsed:
    """The images of a subset with their boxes, and polygons and ellipses as the boxes around them."""
    parsed = Parsed()
    try:
        tree = parse_xml(path)
    except (ValueError, OSError) as error:
        return Parsed(problems=[("unreadable_annotations", path, one_line(error))])
    if tree.find("track") is not None:
        text = "tracks of a video, whose frames are no image files: export it as 'CVAT for images'"
        return Parsed(problems=[("unreadable_annotations", path, text)])
    finder = ImageFinder(root)
    for element in tree.iter("image"):
        if _subset(element) != subset:
            continue
        name = element.get("name") or ""
        image = ForeignImage(_placed(finder, name, element.get("subset")), element.get("width"), element.get("height"))
        for shape in element:
            if shape.tag in _SHAPES:
                image.objects.append(ForeignObject(shape.get("label"), _corners(shape)))
            elif shape.tag in ("points", "mask", "cuboid", "skeleton"):
                parsed.problems.append(("bad_label", name, f"a {shape.tag} of {shape.get('label')!r} has no box"))
        parsed.images.append(image)
    return parsed


def _placed(finder: ImageFinder, name: str, subset: str | None) -> str:
    """The path of an image in CVAT's archive."""
    return finder.first(name, ("", "images", os.path.join("images", subset or "")))


def _corners(shape: Element) -> Sequence[float | None]:
    """Of the upright box around a shape; one None where it cannot be read."""
    angle = read_number(shape.get("rotation", 0))  # degrees, of boxes and ellipses about their centre
    if shape.tag == "box":
        corners = [read_number(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
        if not angle or None in corners:
            return [None] if angle is None else corners
        left, top, right, bottom = corners
        x, y, a, b = (left + right) / 2, (top + bottom) / 2, abs(right - left) / 2, abs(bottom - top) / 2
        cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
        across, down = a * cos + b * sin, a * sin + b * cos
        return [x - across, y - down, x + across, y + down]
    if shape.tag == "ellipse":
        x, y, a, b = (read_number(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
        if None in (x, y, a, b, angle):
            return [None]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        across, down = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
        return [x - across, y - down, x + across, y + down]
    points = [[read_number(v) for v in point.split(",")] for point in (shape.get("points") or "").split(";")]
    if not all(len(point) == 2 and None not in point for point in points):
        return [None]
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]
