"""A page of images with their boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import ColorMode, Visualizer

from ..images import read_image
from ..records import ImageRecord
from .inspection import Inspection
from .probe import ImageFacts
from .report import class_names

_LONGEST = 640  # px at which an image is drawn


def write_contact_sheet(inspection: Inspection, path: str | Path, *, count: int = 16, columns: int = 4) -> int:
    """Draw images with their boxes, those with defects of their boxes or pixels among them.

    Args:
        inspection: of the dataset.
        path: of the picture; its suffix is the format.
        count: images on the page, at most.
        columns: of the page.

    Returns:
        The number of images drawn; no file is written for none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    chosen = _choose(inspection, count)
    if not chosen:
        return 0
    names = class_names(inspection)
    palette = matplotlib.colormaps["tab20"]
    colors = [[255 * c for c in palette(i % palette.N)[:3]] for i in range(len(names))]
    metadata = Metadata(name="contact sheet", thing_classes=names, thing_colors=colors)
    rows = -(-len(chosen) // columns)
    with matplotlib.rc_context({"font.size": 7}):
        figure = Figure(figsize=(3.2 * columns, 3.0 * rows), layout="constrained")
        for axes in np.atleast_1d(figure.subplots(rows, columns)).flat:
            axes.set_axis_off()
        for axes, (split, image, kinds) in zip(figure.axes, chosen, strict=False):
            axes.imshow(draw_boxes(image, metadata))
            title = f"{split}: {_shortened(image.file_name)}" + (f"\n{', '.join(kinds)}" if kinds else "")
            axes.set_title(title, color="#c1121f" if kinds else "black")
        figure.savefig(path, dpi=110)
    return len(chosen)


def draw_boxes(image: ImageRecord, metadata: Metadata) -> np.ndarray:
    """``(height, width, 3)`` uint8 RGB: a readable image with its boxes and class names, scaled to the page."""
    pixels = read_image(image.path, annotated_size=image.size)
    scale = _LONGEST / max(pixels.shape[:2])
    names = metadata.thing_classes
    annotations = [
        {"bbox": item.box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": names.index(item.category),
         "iscrowd": int(item.crowd)}
        for item in image.objects
    ]  # fmt: skip
    visualizer = Visualizer(pixels, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)  # a colour a class
    return visualizer.draw_dataset_dict({"annotations": annotations}).get_image()


def _choose(inspection: Inspection, count: int) -> list[tuple[str, ImageRecord, list[str]]]:
    """Up to half the page from images with defects, a few of each kind; the rest evenly from all splits."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for defect in inspection.defects:
        kinds.setdefault((defect.split, defect.file), []).append(defect.kind)
    candidates = [
        (name, image, sorted(set(kinds.get((name, image.file_name), []))))
        for name in inspection.splits
        for image, fact in inspection.images(name)
        if _drawable(image, fact)
    ]
    common = Counter(tuple(kinds) for _, _, kinds in candidates)
    flawed = sorted((c for c in candidates if c[2]), key=lambda c: common[tuple(c[2])])
    fine = [c for c in candidates if not c[2]]
    shown = _evenly(flawed, count // 2 if len(fine) >= count - count // 2 else count - len(fine))
    return [*shown, *_evenly(fine, count - len(shown))]


def _drawable(image: ImageRecord, fact: ImageFacts) -> bool:
    return not fact.error and fact.mode != "F" and (image.size is None or image.size in (fact.size, fact.stored_size))


def _evenly(items: Sequence, count: int) -> list:
    step = max(1.0, len(items) / count) if count else 1.0
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def _shortened(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"
