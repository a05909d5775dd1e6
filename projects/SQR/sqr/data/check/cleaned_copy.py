"""Writes a copy of a dataset without its defects, in COCO's layout."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..images import read_image
from ..records import ImageRecord, ObjectRecord
from ..values import clip_box
from .inspection import Inspection
from .probe import ImageFacts
from .report import class_names

_KEPT_MODES = ("RGB", "L", "1")  # grey loses nothing by staying grey
_SAME_RATIO = 0.02  # how far the scales of width and height may differ in an image that was resized as a whole


@dataclass
class CopySummary:
    """What became of images and objects."""

    images: int = 0
    encoded: int = 0
    dropped_images: int = 0
    objects: int = 0
    dropped_objects: int = 0

    def __str__(self) -> str:
        return (
            f"{self.images} images ({self.encoded} encoded anew, {self.dropped_images} left out), "
            f"{self.objects} objects ({self.dropped_objects} left out)"
        )


def write_cleaned_copy(inspection: Inspection, folder: str | Path) -> CopySummary:
    """Write ``annotations/instances_<split>.json`` and ``<split>/`` with every image that can be used.

    Images are hard links to the originals where the file system allows, else copies. Encoded anew (as RGB; JPEG stays
    JPEG, others become PNG) are those that EXIF turns, with transparency or a palette, in print colours, or of 16
    bits. Left out are images that are missing, broken, of floats, or of a size that tells nothing of where the boxes
    are; boxes of an image that was resized as a whole are scaled. Boxes are clipped to the image; those without area,
    repeated ones, and all that the report lists as unusable are left out. All splits get the same classes.
    Segmentations are not copied.

    Args:
        inspection: of the dataset.
        folder: must not exist, or be empty. It appears under its name when it is complete.

    Raises:
        FileExistsError: ``folder`` holds something.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder")
    classes = _classes(inspection)
    summary = CopySummary()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "annotations").mkdir(parents=True)
        for name in inspection.splits:
            content = _write_split(inspection, name, partial / name, classes, summary)
            (partial / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _classes(inspection: Inspection) -> list[str]:
    """All classes but a placeholder that no split uses."""
    used = {o.category for split in inspection.splits.values() for image in split.images for o in image.objects}
    placeholders = {split.placeholder for split in inspection.splits.values()} - used
    return [name for name in class_names(inspection) if name not in placeholders]


def _write_split(
    inspection: Inspection, split: str, folder: Path, classes: list[str], summary: CopySummary
) -> dict[str, list]:
    folder.mkdir()
    names = _unique_names([image for image, _ in inspection.images(split)])
    ids = {name: number for number, name in enumerate(classes, start=1)}
    images: dict[str, dict] = {}
    objects: dict[str, list[ObjectRecord]] = {}
    for image, fact in inspection.images(split):
        size = fact.stored_size if image.size == fact.stored_size else fact.size
        scale = _scale(image, fact)
        if scale is None:
            summary.dropped_images += 1
            summary.dropped_objects += len(image.objects)
            continue
        if image.path not in images:
            file_name = _write_image(image, fact, folder, names, summary)
            images[image.path] = {"id": len(images) + 1, "file_name": file_name, "width": size[0], "height": size[1]}
        kept = objects.setdefault(image.path, [])
        for item in image.objects:
            clean = _clean_object(item, scale, size)
            if clean is None or clean in kept:
                summary.dropped_objects += 1
            else:
                kept.append(clean)
    annotations = []
    for path, kept in objects.items():
        for item in kept:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": images[path]["id"], "category_id": ids[item.category],
                 "bbox": item.box, "area": round(item.box[2] * item.box[3], 4), "iscrowd": int(item.crowd)}
            )  # fmt: skip
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
    if min(image.size) <= 0:
        return None
    x, y = fact.size[0] / image.size[0], fact.size[1] / image.size[1]
    return (x, y) if abs(x / y - 1) < _SAME_RATIO else None


def _clean_object(item: ObjectRecord, scale: tuple[float, float], size: tuple[int, int]) -> ObjectRecord | None:
    scaled = [value * factor for value, factor in zip(item.box, (*scale, *scale), strict=True)]
    box = [round(v, 4) for v in clip_box(scaled, size)]
    return ObjectRecord(item.category, box, item.crowd) if min(box[2:]) > 0 else None


def _unique_names(images: list[ImageRecord]) -> dict[str, str]:
    """A file name for each path: its own, with its folders in front where two share one."""
    paths = {image.path: image.file_name for image in images}
    counts = Counter(os.path.basename(name) for name in paths.values())
    return {
        path: os.path.basename(name) if counts[os.path.basename(name)] == 1 else name.strip("./").replace(os.sep, "_")
        for path, name in paths.items()
    }


def _write_image(
    image: ImageRecord, fact: ImageFacts, folder: Path, names: dict[str, str], summary: CopySummary
) -> str:
    """Link, copy or encode one image; returns its name in ``folder``."""
    source, target = Path(image.path), folder / names[image.path]
    if fact.orientation == 1 and not fact.transparent and fact.mode in _KEPT_MODES:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
        return target.name
    summary.encoded += 1
    stored = image.size == fact.stored_size
    pixels = Image.fromarray(read_image(image.path, annotated_size=fact.stored_size if stored else fact.size))
    if target.suffix.lower() in (".jpg", ".jpeg", ".jfif"):
        pixels.save(target, format="JPEG", quality=95, subsampling=0)
    else:
        name = target.with_suffix(".png").name
        if name != target.name and (name in names.values() or (folder / name).exists()):
            name = f"{target.name.replace('.', '_')}.png"
        target = folder / name
        pixels.save(target, format="PNG")
    return target.name
