"""Splits in formats other than COCO's and YOLO's: what their readers return, and its conversion to records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .coco_files import CocoReader
from .image_files import ImageFinder, image_sizes
from .images import UnreadableImageError
from .records import SplitRecord
from .values import read_name, read_number, read_size


@dataclass
class ForeignObject:
    """One object as written in a file.

    Attributes:
        label: its class.
        corners: ``[left, top, right, bottom]`` in pixels, numbers or text.
        crowd: training leaves it out, and evaluation ignores detections on it.
    """

    label: Any
    corners: Sequence[Any]
    crowd: bool = False


@dataclass
class ForeignImage:
    """One image as written in a file; if width or height is None, it is read from the image file."""

    file_name: str
    width: Any = None
    height: Any = None
    objects: list[ForeignObject] = field(default_factory=list)


@dataclass
class Parsed:
    """What a reader found: images in order, and ``(kind of defect, file, text)`` of what it could not read."""

    images: list[ForeignImage] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ConvertedSplit:
    """A split of any format that can be parsed into :class:`ForeignImage`.

    Attributes:
        source: the file or folder of the annotations, for messages.
        folder: to which the names of the images are relative.
        parse: reads the annotations.
        siblings: the other splits: classes are numbered by name over all splits.
    """

    source: str
    folder: str
    parse: Callable[[], Parsed]
    siblings: tuple[Callable[[], Parsed], ...] = ()

    def read(self, name: str) -> SplitRecord:
        """As :meth:`sqr.data.layouts.Split.read`."""
        record = SplitRecord(name, self.source, self.folder, as_is=False)
        parsed = self.parse()
        for kind, file, text in parsed.problems:
            record.note(kind, file, text)
        everything = [parsed, *(parse() for parse in self.siblings)]
        labels = {read_name(o.label) for p in everything for image in p.images for o in image.objects} - {None}
        numbers = {label: i for i, label in enumerate(sorted(labels), start=1)}
        content = self._content(record, parsed.images, numbers)
        CocoReader(record, content, ImageFinder(self.folder), native=False).read()
        if not record.images and not record.defects:
            record.note("no_images", self.source, "no images")
        return record

    def _content(self, record: SplitRecord, foreign: list[ForeignImage], numbers: dict[str, int]) -> dict:
        sizes = self._sizes(record, foreign)
        images, annotations = [], []
        for number, (image, size) in enumerate(zip(foreign, sizes, strict=True), start=1):
            images.append({"id": number, "file_name": image.file_name, "width": size[0], "height": size[1]})
            for item in image.objects:
                label = read_name(item.label)
                if label is None:
                    record.drop("bad_label", image.file_name, f"an object of the class {str(item.label)[:40]!r}")
                    continue
                corners = [read_number(v) for v in item.corners]
                box = None
                if len(corners) == 4 and None not in corners:
                    box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": numbers[label],
                                    "bbox": box, "iscrowd": int(item.crowd)})  # fmt: skip
        categories = [{"id": i, "name": n} for n, i in numbers.items()]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _sizes(self, record: SplitRecord, images: list[ForeignImage]) -> list[tuple[int | None, int | None]]:
        """Sizes from the annotations, or else from the image files."""
        stated = [(read_size(image.width), read_size(image.height)) for image in images]
        finder = ImageFinder(self.folder)
        asked = {i: finder.find(images[i].file_name) for i, size in enumerate(stated) if None in size}
        paths = {i: os.path.join(self.folder, name) for i, name in asked.items() if name}
        measured = dict(zip(paths, image_sizes(list(paths.values())), strict=True))
        for i in asked:
            size = measured.get(i)
            if isinstance(size, UnreadableImageError):
                record.note("undecodable_image", images[i].file_name, str(size))
            stated[i] = size if isinstance(size, tuple) else (None, None)
        return stated
