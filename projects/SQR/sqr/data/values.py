"""Parses values of annotation files in the variants that people and tools write, for all formats."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FLAGS = {"0": False, "false": False, "no": False, "": False, "1": True, "true": True, "yes": True}
# control characters other than white space, spaces of no width, and the byte order mark
_INVISIBLE = dict.fromkeys((*range(9), *range(14, 32), *range(127, 160), 0x200B, 0x2060, 0xFEFF))
LARGEST_ID = 2**63 - 1  # the largest integer of NumPy and thus of COCO's evaluation


def read_id(value: Any) -> int | str | None:
    """An id: 7, 7.0, "7" and "7.0" are the same; other text stays text. None if it is neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _INTEGER.fullmatch(text) else text or None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_plain_id(value: Any, *, smallest: int = 0) -> bool:
    """Whether an id can be used unchanged: an integer from ``smallest`` to :data:`LARGEST_ID`."""
    return type(value) is int and smallest <= value <= LARGEST_ID


def read_number(value: Any) -> float | None:
    """A finite number, possibly written as text; None if it is not one."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_size(value: Any) -> int | None:
    """A width or height: a positive whole number of pixels; None if it is not one."""
    number = read_number(value)
    return int(number) if number is not None and number >= 1 and number.is_integer() else None


def read_flag(value: Any) -> bool | None:
    """True or false, possibly as text; None if it is neither. A missing value is false."""
    if value is None:
        return False
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _FLAGS:
            return _FLAGS[text]
        value = read_number(text)
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None


def read_name(value: Any) -> str | None:
    """A class name, in Unicode's composed form, one space for white space within it and nothing invisible around it:
    text or an integer; None if it is blank or neither."""
    text = read_file_name(value)
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split()) or None if text else None


def read_file_name(value: Any) -> str | None:
    """A file name as it is written: text or an integer; None if it is blank or neither. What is half a character, which
    no file can be written with, is replaced."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID:
        value = str(value)
    if not isinstance(value, str) or not value.strip("\ufeff \t\r\n"):
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_box(value: Any) -> list[float] | None:
    """Four finite numbers; None if they are not."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [read_number(v) for v in value]
    return None if None in numbers else numbers


def upright_box(box: Sequence[float]) -> list[float]:
    """``[x, y, width, height]`` with positive sides: the corners of a box drawn from another corner are swapped."""
    x, y, w, h = box
    return [x + min(w, 0.0), y + min(h, 0.0), abs(w), abs(h)]


def clip_box(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """``[x, y, width, height]`` clipped to the image; width or height is at most 0 if nothing is left."""
    (x, y, w, h), (width, height) = box, size
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + w, width) - left, min(y + h, height) - top]


def shown_box(box: Sequence[float]) -> str:
    """Format a box for messages."""
    return "[" + ", ".join(f"{v:.6g}" for v in box) + "]"
