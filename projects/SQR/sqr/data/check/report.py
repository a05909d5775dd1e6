"""An inspection as numbers, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from ..defects import ERROR, KINDS, TRIVIAL, WARNING, Defect
from ..records import SplitRecord
from .inspection import Inspection

SIZES = ("small", "medium", "large")
_BOUNDS = (32.0**2, 96.0**2)  # COCO's, in square pixels of the image as it is
_NAME_WIDTH = 24


def report_dict(inspection: Inspection) -> dict:
    """The full report for JSON: classes, numbers of each split, defects with all their places."""
    return {
        "path": inspection.dataset.root,
        "layout": inspection.dataset.layout,
        "decoded": inspection.decoded,
        "classes": class_names(inspection),
        "splits": {name: split_statistics(split) for name, split in inspection.splits.items()},
        "errors": sum(d.severity == ERROR for d in inspection.defects),
        "warnings": sum(d.severity == WARNING for d in inspection.defects),
        "defects": [
            {"kind": kind, "severity": KINDS[kind][0], "what": KINDS[kind][1], "count": len(defects),
             "places": [{"split": d.split, "file": d.file, "text": d.text} for d in defects]}
            for kind, defects in grouped_defects(inspection.defects).items()
        ],
    }  # fmt: skip


def class_names(inspection: Inspection) -> list[str]:
    """The first split's class names, followed by those found only in other splits."""
    return list(dict.fromkeys(name for split in inspection.splits.values() for name in split.classes))


def split_statistics(split: SplitRecord) -> dict:
    """Images, boxes per image, and boxes by class and size; crowds are counted separately."""
    boxes = [(o.category, size_of(o.box)) for i in split.images for o in i.objects if not o.crowd]
    counts = [sum(not o.crowd for o in image.objects) for image in split.images]
    images_with = Counter(c for image in split.images for c in {o.category for o in image.objects if not o.crowd})
    sizes = [image.size for image in split.images if image.size]
    by_class = Counter(boxes)
    return {
        "annotations": split.source,
        "images": len(split.images),
        "empty_images": counts.count(0),
        "boxes": len(boxes),
        "crowds": sum(o.crowd for image in split.images for o in image.objects),
        "boxes_per_image": _spread(counts),
        "box_sizes": {size: sum(s == size for _, s in boxes) for size in SIZES},
        "image_widths": _spread([w for w, _ in sizes]),
        "image_heights": _spread([h for _, h in sizes]),
        "classes": {
            name: {"boxes": sum(by_class[name, s] for s in SIZES), "images": images_with[name],
                   **{s: by_class[name, s] for s in SIZES}}
            for name in split.classes
        },
    }  # fmt: skip


def size_of(box: Sequence[float]) -> str:
    """COCO's name for the size of a box ``[x, y, width, height]``."""
    return SIZES[sum(box[2] * box[3] > bound for bound in _BOUNDS)]


def grouped_defects(defects: Sequence[Defect]) -> dict[str, list[Defect]]:
    """Defects by kind, errors first."""
    groups = {kind: [d for d in defects if d.kind == kind] for kind in KINDS}
    return {kind: group for kind, group in groups.items() if group}


def report_text(inspection: Inspection, *, examples: int = 3) -> str:
    """The report for a terminal, with the first few places of each kind of defect."""
    report = report_dict(inspection)
    lines = [f"{report['path']}: {report['layout']}, {len(report['classes'])} classes", ""]
    lines += _table(
        ["split", "images", "empty", "boxes", "per image", *SIZES, "crowds", "image size"],
        [_split_row(name, numbers) for name, numbers in report["splits"].items()],
    )
    lines += ["", *_class_table(report), ""]
    for kind, defects in grouped_defects(inspection.defects).items():
        severity, what = KINDS[kind]
        if kind in TRIVIAL:
            lines.append(f"{severity}: {len(defects)} x {what}, in {len({d.file for d in defects})} files [{kind}]")
            continue
        lines.append(f"{severity}: {len(defects)} x {what} [{kind}]")
        lines += [f"    {' '.join(filter(None, (d.split, d.file)))}: {d.text}" for d in defects[:examples]]
        if len(defects) > examples:
            lines.append(f"    and {len(defects) - examples} more")
    if not inspection.defects:
        lines.append("Nothing is wrong with it.")
    if not inspection.decoded:
        lines.append("Images were not decoded: a truncated file would not be noticed.")
    lines += ["", _verdict(report)]
    return "\n".join(lines)


def _verdict(report: dict) -> str:
    if report["errors"]:
        errors = _number(report["errors"], "error")
        return f"Training or evaluation on it fails: {errors}. --fix FOLDER writes a cleaned copy."
    if report["warnings"]:
        return f"It can be trained on: {_number(report['warnings'], 'warning')}."
    return "It can be trained on."


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _split_row(name: str, numbers: dict) -> list[str]:
    boxes, widths, heights = (numbers[key] for key in ("boxes_per_image", "image_widths", "image_heights"))
    return [
        name, str(numbers["images"]), str(numbers["empty_images"]), str(numbers["boxes"]),
        f"{boxes['mean']:.1f} (at most {boxes['max']})", *(str(numbers["box_sizes"][s]) for s in SIZES),
        str(numbers["crowds"]),
        f"{widths['min']}x{heights['min']} to {widths['max']}x{heights['max']}",
    ]  # fmt: skip


def _class_table(report: dict) -> list[str]:
    """Boxes of each class in each split, and their sizes in all splits together."""
    empty = {"boxes": 0, **dict.fromkeys(SIZES, 0)}
    splits = report["splits"].values()
    rows = []
    for number, name in enumerate(report["classes"]):
        each = [split["classes"].get(name, empty) for split in splits]
        shown = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."
        rows.append([str(number), shown, *(str(c["boxes"]) for c in each),
                     *(str(sum(c[s] for c in each)) for s in SIZES)])  # fmt: skip
    return _table(["class", "name", *report["splits"], *SIZES], rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def _spread(values: Sequence[float]) -> dict:
    if not values:
        return {"min": 0, "median": 0, "mean": 0.0, "max": 0}
    mean = round(sum(values) / len(values), 3)
    return {"min": min(values), "median": median(values), "mean": mean, "max": max(values)}
