"""Writes a copy of a dataset without its defects, in COCO's layout."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..images import UnreadableImageError, read_image
from ..records import ImageRecord, ObjectRecord
from ..values import clip_box
from .inspection import Inspection
from .probe import ImageFacts
from .report import class_names

_KEPT_MODES = ("RGB", "L", "1")  # grey images may stay grey
_JPEG = (".jpg", ".jpeg", ".jfif")
_SAME_RATIO = 0.02  # how far the scales of width and height may differ in an image that was resized as a whole
_LONGEST_NAME = 200


@dataclass
class CopySummary:
    """What happened to images, objects and classes.

    Attributes:
        images, encoded, objects: numbers of images written, of images re-encoded and of objects written.
        dropped_objects: how many objects of the original are not in the copy.
        left_out: a line for every image that is not in the copy, with the reason.
        classes: a line for every class that was merged, added or left out.
    """

    images: int = 0
    encoded: int = 0
    objects: int = 0
    dropped_objects: int = 0
    left_out: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.images} images ({self.encoded} re-encoded, {len(self.left_out)} left out), "
            f"{self.objects} objects ({self.dropped_objects} left out)"
        )

    @property
    def changes(self) -> list[str]:
        """Lines for classes and for images that are not in the copy."""
        return [*self.classes, *self.left_out]


def write_cleaned_copy(inspection: Inspection, folder: str | Path) -> CopySummary:
    """Write ``annotations/instances_<split>.json`` and ``<split>/`` with every image that can be used.

    Images are hard links to the originals if the file system supports them, else copies. Images with an EXIF rotation,
    transparency, a palette, CMYK colours or 16 bits are re-encoded as RGB (JPEG stays JPEG, others become PNG). Images
    that are missing, broken, of floats, or of a size from which the boxes cannot be located are left out; boxes of an
    image that was resized as a whole are scaled. Boxes are clipped to the image; those without area, repeated ones, and
    all that the report lists as unusable are left out. All splits get the same classes; classes with the same name are
    merged.

    Args:
        inspection: of the dataset.
        folder: must not exist, or be empty. It appears under its name only when it is complete.

    Raises:
        FileExistsError: ``folder`` is not empty.
        ValueError: no image can be used.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder")
    summary = CopySummary()
    classes = _classes(inspection, summary)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "annotations").mkdir(parents=True)
        for name, split in inspection.splits.items():
            summary.left_out += [f"{name} {file}: {reason}" for file, reason in split.dropped_images]
            summary.dropped_objects += split.dropped_objects
            images = partial / (name if name != "annotations" else "images_annotations")
            content = _write_split(inspection, name, images, classes, summary)
            if not content["images"]:
                images.rmdir()
                summary.left_out.append(f"split {name}: no image of it can be used")
                continue
            (partial / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        if not summary.images:
            raise ValueError("no image can be used, so there is nothing to copy")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _classes(inspection: Inspection, summary: CopySummary) -> list[str]:
    """All classes except a placeholder that no split uses; records how they differ from each split's."""
    splits = inspection.splits.values()
    used = {o.category for split in splits for image in split.images for o in image.objects}
    placeholders = {split.placeholder for split in splits} - used
    for name in sorted(filter(None, placeholders)):
        summary.classes.append(f"class {name!r}: left out, a group that no object is of")
    for split in splits:
        summary.classes += [f"class {name!r} of {split.name}: left out, {why}" for name, why in split.dropped_classes]
    for defect in inspection.defects:
        if defect.kind == "duplicate_category_name":
            summary.classes.append(f"class of {defect.split}: merged, {defect.text}")
    classes = [name for name in class_names(inspection) if name not in placeholders]
    for split in splits:
        added = [name for name in classes if split.classes and name not in split.classes]
        summary.classes += [f"class {name!r}: added to {split.name}" for name in added]
    return classes


def _write_split(
    inspection: Inspection, split: str, folder: Path, classes: list[str], summary: CopySummary
) -> dict[str, list]:
    folder.mkdir()
    names = _file_names(inspection.images(split))
    ids = {name: number for number, name in enumerate(classes, start=1)}
    images: dict[str, dict] = {}
    objects: dict[str, list[ObjectRecord]] = {}
    for image, fact in inspection.images(split):
        size = fact.stored_size if image.size == fact.stored_size else fact.size
        scale = _scale(image, fact)
        reason = "" if scale else _why_unusable(image, fact)
        if not reason and image.path not in images:
            reason = _write_image(image, fact, folder / names[image.path], summary)
        if reason:
            summary.left_out.append(f"{split} {image.file_name}: {reason}")
            summary.dropped_objects += len(image.objects)
            continue
        images.setdefault(image.path, {"id": len(images) + 1, "file_name": names[image.path], "width": size[0],
                                       "height": size[1]})  # fmt: skip
        kept = objects.setdefault(image.path, [])
        for item in image.objects:
            clean = _clean_object(item, scale, size)
            if clean is None or clean in kept:
                summary.dropped_objects += 1
            else:
                kept.append(clean)
    annotations = [
        {"id": 0, "image_id": images[path]["id"], "category_id": ids[item.category], "bbox": item.box,
         "area": item.area, "iscrowd": int(item.crowd)}
        for path, kept in objects.items()
        for item in kept
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    summary.images += len(images)
    summary.objects += len(annotations)
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": list(images.values()), "annotations": annotations, "categories": categories}


def _scale(image: ImageRecord, fact: ImageFacts) -> tuple[float, float] | None:
    """From the annotations' pixels to the image's; None for an image that cannot be used."""
    if fact.error or fact.mode == "F" or image.size is None:
        return None
    if image.size in (fact.size, fact.stored_size):
        return 1.0, 1.0
    x, y = fact.size[0] / image.size[0], fact.size[1] / image.size[1]
    return (x, y) if abs(x / y - 1) < _SAME_RATIO else None


def _why_unusable(image: ImageRecord, fact: ImageFacts) -> str:
    if fact.error or image.size is None:
        return fact.error or "its size cannot be read"
    if fact.mode == "F":
        return "its pixels are floats of an unknown range"
    return "{}x{}, annotated as {}x{}".format(*fact.size, *image.size)


def _clean_object(item: ObjectRecord, scale: tuple[float, float], size: tuple[int, int]) -> ObjectRecord | None:
    scaled = [value * factor for value, factor in zip(item.box, (*scale, *scale), strict=True)]
    box = [round(v, 4) for v in clip_box(scaled, size)]
    if min(box[2:]) <= 0:
        return None
    area = min(item.area * scale[0] * scale[1], box[2] * box[3])
    return ObjectRecord(item.category, box, item.crowd, round(area, 4) or box[2] * box[3])


def _file_names(images: Sequence[tuple[ImageRecord, ImageFacts]]) -> dict[str, str]:
    """A file name in the copy for each path: its own, prefixed by its folders if two share one."""
    facts = {image.path: (image.file_name, fact) for image, fact in images}
    counts = Counter(os.path.basename(name).casefold() for name, _ in facts.values())
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path, (name, fact) in facts.items():
        base = os.path.basename(name)
        if counts[base.casefold()] > 1:
            base = name.strip("./").replace(os.sep, "_")
        stem, suffix = os.path.splitext(base)
        if not _is_kept(fact) and suffix.lower() not in _JPEG:
            stem, suffix = (stem if suffix.lower() == ".png" else base.replace(".", "_")), ".png"
        stem = stem[-_LONGEST_NAME:]
        number, candidate = 1, stem + suffix
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}_{number}{suffix}"
        taken.add(candidate.casefold())
        names[path] = candidate
    return names


def _is_kept(fact: ImageFacts) -> bool:
    """Whether the file can be used in the copy unchanged."""
    return fact.orientation == 1 and not fact.transparent and fact.mode in _KEPT_MODES


def _write_image(image: ImageRecord, fact: ImageFacts, target: Path, summary: CopySummary) -> str:
    """Link, copy or encode one image; returns why it cannot be."""
    if _is_kept(fact):
        try:
            os.link(image.path, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(image.path, target)
        return ""
    size = fact.stored_size if image.size == fact.stored_size else fact.size
    try:
        pixels = Image.fromarray(read_image(image.path, annotated_size=size))
    except UnreadableImageError as error:
        return str(error)
    summary.encoded += 1
    if target.suffix.lower() in _JPEG:
        pixels.save(target, format="JPEG", quality=95, subsampling=0)
    else:
        pixels.save(target, format="PNG")
    return ""
