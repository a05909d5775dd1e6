"""Checks a COCO-format dataset before anything is built, so that a mistake is one clear line and not a
traceback.

Nothing here opens an image: the annotation file is parsed once (and remembered while it does not change) and
the names of its images are looked up in directory listings.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .cache import cached_json


@dataclass(frozen=True)
class CocoSummary:
    """What the checks and the class count need to know of an annotation file.

    Attributes:
        path: the annotation file.
        categories: ``(id, name)`` sorted by id, the order of the contiguous class numbers.
        num_images: images listed.
        num_boxes: annotations that are no crowd.
        image_names: ``file_name`` of each image.
        most_objects: the highest number of boxes to train on in one image.
        fullest_image: ``file_name`` of that image.
        complete: every annotation has the ``area`` and the ``iscrowd`` that COCO's evaluation needs.
    """

    path: str
    categories: tuple[tuple[int, str], ...]
    num_images: int
    num_boxes: int
    image_names: tuple[str, ...]
    most_objects: int
    fullest_image: str
    complete: bool


def read_coco_summary(path: str) -> CocoSummary:
    """Parse an annotation file and check what can be checked without the images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no COCO instances file, lists no image or no category, uses an id twice, or
            has an annotation without a usable box or of an unknown category or image.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"annotation file {path!r} does not exist: point data.train.annotations / "
            "data.val.annotations at a COCO instances json, or data.root at the folder of a dataset"
        )
    stat = os.stat(path)
    return _read_coco_summary(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _read_coco_summary(path: str, mtime_ns: int, size: int) -> CocoSummary:
    """``mtime_ns`` and ``size`` are part of the key only: a changed file is read again."""
    with open(path) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"annotation file {path!r} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or "images" not in content or "categories" not in content:
        raise ValueError(
            f"annotation file {path!r} is not in COCO instances format: it needs the lists 'images', "
            "'annotations' and 'categories'"
        )
    images, categories = content["images"], content["categories"]
    annotations = content.get("annotations", [])
    if not images:
        raise ValueError(f"annotation file {path!r} lists no images")
    if not categories:
        raise ValueError(f"annotation file {path!r} has an empty 'categories' list: there is nothing to detect")
    _check_records(path, "category", categories, ("id", "name"))
    _check_records(path, "image", images, ("id", "file_name", "height", "width"))
    _check_annotations(path, annotations, {c["id"] for c in categories}, {i["id"] for i in images})
    objects = Counter(a["image_id"] for a in annotations if not a.get("iscrowd", 0) and min(a["bbox"][2:]) > 0)
    fullest, most = objects.most_common(1)[0] if objects else (images[0]["id"], 0)
    return CocoSummary(
        path=path,
        categories=tuple(sorted((c["id"], str(c["name"])) for c in categories)),
        num_images=len(images),
        num_boxes=sum(1 for a in annotations if not a.get("iscrowd", 0)),
        image_names=tuple(i["file_name"] for i in images),
        most_objects=most,
        fullest_image=next(i["file_name"] for i in images if i["id"] == fullest),
        complete="annotations" in content and all(map(is_complete, annotations)),
    )


def _check_records(path: str, what: str, records: list[dict], keys: tuple[str, ...]) -> None:
    seen = set()
    for record in records:
        lacking = [key for key in keys if not isinstance(record, dict) or record.get(key) is None]
        if lacking:
            raise ValueError(f"annotation file {path!r}: {what} {record} lacks {lacking}")
        if record["id"] in seen:
            raise ValueError(f"annotation file {path!r} uses {what} id {record['id']} twice")
        seen.add(record["id"])


def _check_annotations(path: str, annotations: list[dict], category_ids: set, image_ids: set) -> None:
    _check_records(path, "annotation", annotations, ("id", "image_id", "category_id"))
    without = [a for a in annotations if not is_box(a.get("bbox"))]
    if without:
        raise ValueError(
            f"annotation file {path!r}: {len(without)} of {len(annotations)} annotations have no 'bbox' "
            f"[x, y, width, height] of four finite numbers, the first is annotation {without[0]['id']}"
        )
    for annotation in annotations:
        if annotation["category_id"] not in category_ids:
            raise ValueError(
                f"annotation file {path!r}: annotation {annotation['id']} has category_id "
                f"{annotation['category_id']}, which 'categories' does not list"
            )
        if annotation["image_id"] not in image_ids:
            raise ValueError(
                f"annotation file {path!r}: annotation {annotation['id']} belongs to image_id "
                f"{annotation['image_id']}, which 'images' does not list"
            )
        if annotation.get("ignore", 0):
            raise ValueError(
                f"annotation file {path!r}: annotation {annotation['id']} has 'ignore', which Detectron2 does not "
                "support; use iscrowd=1 for a region that should count neither way"
            )


def is_complete(annotation: dict) -> bool:
    """Whether an annotation has what COCO's evaluation reads of it besides the box."""
    return isinstance(annotation.get("area"), (int, float)) and annotation.get("iscrowd") in (0, 1)


def completed_annotations(path: str) -> str:
    """A copy of an annotation file, in the cache, with ``area`` and ``iscrowd`` where they are missing.

    The area of an object is then that of its box, and it is no crowd.
    """
    with open(path) as file:
        content = json.load(file)
    content["annotations"] = [
        a if is_complete(a) else {**a, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": int(bool(a.get("iscrowd", 0)))}
        for a in content.get("annotations", ())
    ]
    return cached_json(content, f"{os.path.splitext(os.path.basename(path))[0]}_completed")


def is_box(value: Any) -> bool:
    """Whether a ``bbox`` is a list of four finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in value)
    )


def check_images(summary: CocoSummary, root: str) -> None:
    """Check that every listed image is there, with one directory listing a folder.

    Raises:
        FileNotFoundError: the root or some image is missing; the message counts them and shows the first.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"image root {root!r} of annotation file {summary.path!r} does not exist: set "
            "data.train.images / data.val.images"
        )
    listings: dict[str, set[str]] = {}
    missing = []
    for name in summary.image_names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listings[folder]:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {summary.num_images} images of annotation file {summary.path!r} are not "
            f"under {root!r}, the first is {missing[0]!r}"
        )
