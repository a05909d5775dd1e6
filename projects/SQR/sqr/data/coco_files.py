"""Reads annotations in COCO's format into records, noting what is wrong instead of stopping.

Other formats are converted to COCO's lists in memory and read here too, so that a value means the same in all of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import one_line
from .image_files import ImageFinder
from .records import ImageRecord, ObjectRecord, SplitRecord
from .values import (
    clip_box,
    is_plain_id,
    read_box,
    read_file_name,
    read_flag,
    read_id,
    read_name,
    read_number,
    read_size,
    shown_box,
    upright_box,
)

_OUTSIDE_TOLERANCE = 0.5  # px that a box may extend beyond its image without being clipped: rounding
_AREA_TOLERANCE = 1.05  # how far an area may exceed its box's: rounding
_SHARE_AREA = 1.0  # px²; a smaller area of a box above _CERTAIN_AREA is taken for a fraction of the image
_CERTAIN_AREA = 100.0


def load_coco(record: SplitRecord, data: bytes) -> dict | None:
    """The content of an annotation file; None, with a defect recorded, if it is not a COCO instances file."""
    try:
        content = json.loads(data)  # in any of Unicode's encodings, with or without a byte order mark
    except (ValueError, RecursionError) as error:
        record.note("unreadable_annotations", record.source, f"it is not valid JSON: {one_line(error)}")
        return None
    if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
        text = "it is not in COCO instances format: it needs the lists 'images', 'annotations' and 'categories'"
        record.note("unreadable_annotations", record.source, text)
        return None
    for key, missing in (
        ("images", "lists no images"),
        ("categories", "has an empty 'categories' list"),
    ):
        if not isinstance(content[key], list) or not content[key]:
            record.note("unreadable_annotations", record.source, f"it {missing}")
            return None
    if not isinstance(content.get("annotations") or [], list):
        record.note("unreadable_annotations", record.source, "its 'annotations' are no list")
        return None
    record.as_is = isinstance(content.get("annotations"), list) and json.detect_encoding(data) == "utf-8"
    return content


class CocoReader:
    """One pass over COCO's three lists.

    Args:
        record: receives classes, images, objects and defects.
        content: the lists; ``annotations`` may be missing.
        finder: of the image files; None if they do not matter.
        native: the content is an original COCO file; False if this package converted it from another format, in which
            case missing ids, areas and crowd flags are not reported.
    """

    def __init__(self, record: SplitRecord, content: dict, finder: ImageFinder | None, *, native: bool = True):
        self.record, self.content, self.finder, self.native = record, content, finder, native
        self.images: dict[Any, ImageRecord] = {}
        self.categories: dict[Any, str] = {}
        self.unusable: set[Any] = set()  # ids of images that cannot be used, already recorded as defects
        record.folder = finder.folder if finder else ""

    def read(self) -> SplitRecord:
        """Fill the record."""
        self._read_categories()
        self._read_images()
        self._read_annotations()
        self.record.images = list(self.images.values())
        self.record.placeholder = self._placeholder()
        self._suspect_shares()
        self._settle_ids()
        return self.record

    # ------------------------------------------------------------------ categories and images

    def _dicts(self, key: str) -> Iterator[tuple[str, dict]]:
        for index, entry in enumerate(self.content.get(key) or ()):
            if isinstance(entry, dict):
                yield f"{key}[{index}]", entry
                continue
            self._lacks(f"{key}[{index}]", self.record.source, ["fields"])
            if key == "annotations":
                self.record.dropped_objects += 1
            else:
                dropped = self.record.dropped_images if key == "images" else self.record.dropped_classes
                dropped.append((f"{key}[{index}]", "no fields"))

    def _lacks(self, place: str, file: str, fields: Sequence[str]) -> None:
        self.record.note("missing_field", file, f"{place} has no usable {', '.join(fields)}")

    def _read_categories(self) -> None:
        for place, entry in self._dicts("categories"):
            id_, name = read_id(entry.get("id")), read_name(entry.get("name"))
            if id_ is None or name is None:
                lacking = [key for key, value in (("id", id_), ("name", name)) if value is None]
                self._lacks(place, self.record.source, lacking)
                self.record.dropped_classes.append((name or place, f"no usable {', '.join(lacking)}"))
                continue
            if id_ in self.categories:
                self.record.note("duplicate_category_id", self.record.source, f"category id {id_}")
                if name != self.categories[id_]:
                    self.record.dropped_classes.append(
                        (name, f"its category id {id_} is that of {self.categories[id_]!r}")
                    )
                continue
            if name in self.categories.values():
                first = next(i for i, n in self.categories.items() if n == name)
                self.record.note(
                    "duplicate_category_name", self.record.source, f"{name!r}: category ids {first}, {id_}"
                )
            self._keep(type(entry["id"]) is int and entry["name"] == name)
            self.categories[id_] = name

    def _read_images(self) -> None:
        for place, entry in self._dicts("images"):
            values = {"id": read_id(entry.get("id")), "file_name": read_file_name(entry.get("file_name")),
                      "width": read_size(entry.get("width")), "height": read_size(entry.get("height"))}  # fmt: skip
            if not self.native and values["width"] is None:
                values |= {"width": 0, "height": 0}  # the image could not be read, already recorded as a defect
            lacking = [key for key, value in values.items() if value is None]
            if lacking:
                self._lacks(place, values["file_name"] or self.record.source, lacking)
                self.unusable.add(values["id"])
                self.record.dropped_images.append((values["file_name"] or place, f"no usable {', '.join(lacking)}"))
                continue
            id_, name, width, height = values.values()
            found = self._find(name)
            path = os.path.join(self.record.folder, found)
            image = ImageRecord(found, path, (width, height) if width else None, [], id_)
            self._keep(all(entry[key] == value and type(entry[key]) is not float for key, value in values.items()))
            self._keep(found == name)
            twin = self.images.get(id_)
            if twin is None:
                self.images[id_] = image
            elif (twin.path, twin.size) == (image.path, image.size):
                self.record.note("repeated_image", name, f"twice with image id {id_}")
                self._keep(False)
            else:
                text = f"image id {id_}, also of {twin.file_name}: their objects cannot be told apart"
                self.record.note("duplicate_image_id", name, text)
                self.record.dropped_images.append((name, f"image id {id_} used twice"))
                self.unusable.add(id_)
        for id_ in self.unusable & self.images.keys():
            twin = self.images.pop(id_)
            self.record.dropped_images.append((twin.file_name, f"image id {id_} used twice"))
        for name, ids in _groups((image.file_name, id_) for id_, image in self.images.items()).items():
            for id_ in ids[1:]:
                self.record.note("repeated_image", name, f"again as image id {id_}")

    def _find(self, name: str) -> str:
        found = self.finder.find(name) if self.finder else name
        if found is None:
            close = self.finder.closest(name)
            hint = f"; did you mean {close!r}?" if close else ""
            self.record.note("missing_image", name, f"no such file in {self.finder.folder!r}{hint}")
        elif found != name:
            self.record.note("renamed_image", name, f"the file is {found!r}")
        return found or name

    # ------------------------------------------------------------------ annotations

    def _read_annotations(self) -> None:
        for place, entry in self._dicts("annotations"):
            image_id, category_id = read_id(entry.get("image_id")), read_id(entry.get("category_id"))
            image = self.images.get(image_id)
            file = image.file_name if image else self.record.source
            missing = [k for k, v in (("image_id", image_id), ("category_id", category_id)) if v is None]
            label = f"annotation {shown}" if isinstance(shown := entry.get("id"), (int, str)) else place
            box = read_box(entry.get("bbox"))
            flags = [read_flag(entry.get(key)) for key in ("iscrowd", "ignore")]
            if missing:
                self._lacks(place, file, missing)
                self.record.dropped_objects += 1
            elif image_id in self.unusable:
                self.record.dropped_objects += 1
            elif image is None:
                self.record.drop("unknown_image", file, f"{label}: image_id {image_id}, which 'images' does not list")
            elif category_id not in self.categories:
                text = f"{label}: category_id {category_id}, which 'categories' does not list"
                self.record.drop("unknown_category", file, text)
            elif box is None:
                self.record.drop("bad_box", file, f"{label}: bbox {str(entry.get('bbox'))[:80]}")
            elif None in flags:
                key = ("iscrowd", "ignore")[flags.index(None)]
                self.record.drop("bad_flag", file, f"{label}: {key} {str(entry[key])[:40]!r}")
            elif image.size is not None:
                self._keep(type(entry["image_id"]) is int and type(entry["category_id"]) is int)
                self._keep(entry["bbox"] == box)
                self._add(entry, image, self.categories[category_id], box, flags, label)

    def _add(
        self, entry: dict, image: ImageRecord, category: str, box: list[float], flags: list[bool], label: str
    ) -> None:
        if flags[1]:
            self.record.note("ignore_flag", image.file_name, label)
        clean = self._clean_box(box, image, category)
        if clean is None:
            self._keep(False)
            return
        area = self._area(entry, clean, image.file_name, label)
        if self.native and (entry.get("area") is None or entry.get("iscrowd") is None):
            self.record.note("incomplete_annotation", image.file_name, label)
        self._keep(entry.get("area") == area and entry.get("iscrowd") == int(flags[0]))
        self._keep(not isinstance(entry.get("iscrowd"), bool))
        id_ = read_id(entry.get("id"))
        self._keep(type(entry.get("id")) is int)
        image.objects.append(
            ObjectRecord(category, clean, any(flags), area, id_ if is_plain_id(id_, smallest=1) else 0)
        )

    def _clean_box(self, box: list[float], image: ImageRecord, category: str) -> list[float] | None:
        """The box with positive sides, clipped to the image; None if nothing is left."""
        upright = upright_box(box)
        clipped = clip_box(upright, image.size)
        if min(clipped[2:]) <= 0:
            self.record.drop("degenerate_box", image.file_name, f"{category} {shown_box(box)}")
            return None
        if upright != box:
            self.record.note("turned_box", image.file_name, f"{category} {shown_box(box)}")
            self._keep(False)
        if max(upright[2:]) < 1:
            self.record.note("tiny_box", image.file_name, f"{category} {shown_box(box)}")
        if max(abs(a - b) for a, b in zip(upright, clipped, strict=True)) <= _OUTSIDE_TOLERANCE:
            return upright
        text = "{} {} in {}x{}".format(category, shown_box(box), *image.size)
        self.record.note("box_outside", image.file_name, text)
        self._keep(False)
        return clipped

    def _area(self, entry: dict, box: list[float], file: str, label: str) -> float:
        """The annotation's area, or that of its box if it has no plausible one."""
        full = box[2] * box[3]
        value = entry.get("area")
        if value is None:
            return full
        area = read_number(value)
        possible = area is not None and 0 < area <= full * _AREA_TOLERANCE + 1
        if possible and not (area < _SHARE_AREA and full > _CERTAIN_AREA):
            return area
        original = upright_box(read_box(entry["bbox"]))
        if area is None or not 0 < area <= original[2] * original[3] * _AREA_TOLERANCE + 1 or possible:
            self.record.note("bad_area", file, f"{label}: area {str(value)[:40]} of the box {shown_box(box)}")
        return full

    # ------------------------------------------------------------------ the whole split split

    def _keep(self, unchanged: bool) -> None:
        self.record.as_is = self.record.as_is and unchanged

    def _placeholder(self) -> str | None:
        entries = [c for c in self.content["categories"] if isinstance(c, dict)]
        groups = [c.get("supercategory") for c in entries]
        first = self.categories.get(0)
        used = {item.category for image in self.images.values() for item in image.objects}
        return first if first is not None and first in groups and first not in used else None

    def _suspect_shares(self) -> None:
        sides = [max(item.box[2:]) for image in self.images.values() for item in image.objects]
        if sides and max(sides) <= 1:
            text = f"the largest of {len(sides)} boxes has a side of {max(sides):.3g} pixels"
            self.record.note("boxes_are_shares", self.record.source, text)

    def _settle_ids(self) -> None:
        """Renumber ids that COCO's evaluation cannot handle."""
        record = self.record
        order = sorted(self.categories, key=lambda i: (isinstance(i, str), i))
        plain = all(map(is_plain_id, order))
        for number, id_ in enumerate(order, start=1):
            if self.categories[id_] not in record.classes:
                record.classes.append(self.categories[id_])
                record.category_ids.append(id_ if plain else number)
        if not plain:
            self._renumbered(f"category ids, such as {order[-1]!r}")
        if not all(map(is_plain_id, self.images)):
            odd = next(id_ for id_ in self.images if not is_plain_id(id_))
            self._renumbered(f"image ids, such as {str(odd)[:40]!r}")
            for number, image in enumerate(record.images, start=1):
                image.id = number
        objects = [item for image in record.images for item in image.objects]
        counts = Counter(item.id for item in objects)
        if objects and (0 in counts or len(counts) < len(objects)):
            odd = "missing, 0, negative or no integers" if 0 in counts else "used twice"
            self._renumbered(f"annotation ids that are {odd}")
            for number, item in enumerate(objects, start=1):
                item.id = number

    def _renumbered(self, text: str) -> None:
        self._keep(False)
        if self.native:
            self.record.note("renumbered_ids", self.record.source, text)


def _groups(pairs) -> dict[str, list]:
    groups: dict[str, list] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
