"""Rows of YOLO's label files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import one_line

_LARGEST_SHARE = 2.0  # a larger coordinate is in pixels
_INSIDE = 0.01  # rounding tolerance of keypoints and boxes at edges


@dataclass(frozen=True)
class LabelRow:
    """One object.

    Attributes:
        label: class number.
        box: ``(cx, cy, width, height)`` as fractions of the image.
        numbers: how many the row has after its class.
        doubt: what else a polygon's row can be; empty if nothing.
        certain_doubt: nothing contradicts that reading.
    """

    label: int
    box: tuple[float, float, float, float]
    numbers: int = 4
    doubt: str = ""
    certain_doubt: bool = False


@dataclass(frozen=True)
class LabelProblem:
    """A row that is not an object. ``kind``: ``bad_label``, ``bad_box`` or ``unknown_category``."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def read_labels(path: str, num_classes: int, *, keypoint_values: int = 0) -> tuple[list[LabelRow], list[LabelProblem]]:
    """The objects of a label file; none if there is no file. A polygon counts as its bounding box.

    Args:
        path: of the file.
        num_classes: of the dataset.
        keypoint_values: numbers that follow the box in every row of a pose dataset.

    Returns:
        Rows as written, including those outside the image, and rows that are not objects.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [LabelProblem("bad_label", path, f"cannot be read: {one_line(error)}")]
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            parsed = _parse_row(line.split(), f"{path} line {number}", num_classes, keypoint_values)
            (rows if isinstance(parsed, LabelRow) else problems).append(parsed)
    return rows, problems


def _parse_row(fields: list[str], place: str, num_classes: int, keypoint_values: int) -> LabelRow | LabelProblem:
    try:
        label, *numbers = (float(field) for field in fields)
    except ValueError:
        return LabelProblem("bad_label", place, f"{' '.join(fields)[:60]!r} holds something that is no number")
    if not all(map(math.isfinite, numbers)):
        return LabelProblem("bad_box", place, "a coordinate is not finite")
    if not math.isfinite(label) or label != int(label) or not 0 <= label < num_classes:
        text = f"class {fields[0][:20]}, but there are classes 0 to {num_classes - 1}"
        return LabelProblem("unknown_category", place, text)
    row = _box_of(int(label), numbers, keypoint_values)
    return row if isinstance(row, LabelRow) else LabelProblem("bad_label", place, row)


def _box_of(label: int, numbers: list[float], keypoint_values: int) -> LabelRow | str:
    """The object of a row, or the reason why it is not one."""
    count = len(numbers)
    if keypoint_values and count not in (4, 4 + keypoint_values):
        return f"{count + 1} numbers; kpt_shape asks for a class, a box and {keypoint_values} numbers of keypoints"
    if count == 5 or (count == 6 and numbers[5] > 1):
        return f"{count + 1} numbers: a prediction (class cx cy width height score track)? A label has no score"
    if count != 4 and (count < 6 or count % 2) and not keypoint_values:
        return f"{count + 1} numbers; a row is a class and cx cy width height, or a polygon"
    is_box = keypoint_values or count == 4
    if max(map(abs, numbers[:4] if is_box else numbers)) > _LARGEST_SHARE:
        return "coordinates in pixels? They must be shares of the image's width and height"
    if is_box:
        return LabelRow(label, tuple(numbers[:4]))
    (left, right), (top, bottom) = ((min(v), max(v)) for v in (numbers[::2], numbers[1::2]))
    box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return LabelRow(label, box, count, *_doubt(numbers))


def _doubt(numbers: Sequence[float]) -> tuple[str, bool]:
    """What a row of numbers can be other than a polygon, and whether nothing contradicts that."""
    cx, cy, w, h, *rest = numbers
    if len(rest) == 2:
        return ("a box, a score and a track", True) if rest[1].is_integer() and min(w, h) > 0 else ("", False)
    if min(cx - w / 2, cy - h / 2) < -_INSIDE or max(cx + w / 2, cy + h / 2) > 1 + _INSIDE:
        return "", False

    def inside(x: float, y: float) -> bool:
        return (x, y) == (0, 0) or (abs(x - cx) <= w / 2 + _INSIDE and abs(y - cy) <= h / 2 + _INSIDE)

    text = f"a box and {len(rest)} numbers of keypoints"
    shapes = [values for values in (2, 3) if len(rest) % values == 0]
    return text, any(all(map(inside, rest[::values], rest[1::values])) for values in shapes)


def ambiguous_row(rows: Sequence[LabelRow]) -> LabelRow | None:
    """An ambiguous polygon of a split if all of its polygons can be something else; otherwise None.

    Keypoints may be outside their box, but every row has equally many, which is rare for polygons.
    """
    polygons = [row for row in rows if row.numbers > 4]
    if not polygons or not all(row.doubt for row in polygons):
        return None
    equally_many = len(polygons) > 1 and len({row.numbers for row in polygons}) == 1 and polygons[0].numbers >= 10
    return polygons[0] if equally_many or all(row.certain_doubt for row in polygons) else None


def absolute_box(row: LabelRow, size: tuple[int, int]) -> list[float]:
    """``[x, y, width, height]`` in pixels, not clipped, rounded to 1e-4 px."""
    (cx, cy, w, h), (width, height) = row.box, size
    return [round(v, 4) for v in ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)]


def label_file(image: str) -> str:
    """The path of an image's labels: the last folder ``images`` in its path becomes ``labels``."""
    parts = image.split(os.sep)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return os.path.splitext(os.sep.join(parts))[0] + ".txt"
