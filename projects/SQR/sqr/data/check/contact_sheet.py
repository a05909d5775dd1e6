"""A page of images with their boxes."""

from __future__ import annotations

import colorsys
import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..images import UnreadableImageError, read_image
from ..records import ImageRecord
from .inspection import Inspection
from .probe import ImageFacts
from .report import class_names

_TILE = (480, 400)  # px; the largest width and height of an image on the page
_TEXT = 17  # px; class names and titles
_MARGIN = 8
_GOLDEN = 0.618034  # step on the colour circle between classes: neighbours differ, and no colour repeats
_RED, _BLACK, _WHITE = "#c1121f", "#000000", "#ffffff"


def write_contact_sheet(inspection: Inspection, path: str | Path, *, count: int = 16, columns: int = 4) -> int:
    """Draw images with their boxes, including some whose boxes or pixels have defects.

    Args:
        inspection: of the dataset.
        path: of the picture; its suffix is the format.
        count: images on the page, at most.
        columns: of the page.

    Returns:
        The number of images drawn; if it is 0, no file is written.
    """
    font = _font()
    numbers = {name: i for i, name in enumerate(class_names(inspection))}
    tiles = []
    for split, image, kinds in _choose(inspection, count):
        try:
            tiles.append(_tile(f"{split}: {image.file_name}", image, kinds, numbers, font))
        except UnreadableImageError:
            continue  # headers were read only
    if not tiles:
        return 0
    columns = min(columns, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + _MARGIN for row in rows]
    page = Image.new("RGB", (columns * (_TILE[0] + _MARGIN) + _MARGIN, sum(heights) + _MARGIN), _WHITE)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            page.paste(tile, (_MARGIN + column * (_TILE[0] + _MARGIN), top))
        top += height
    page.save(path)
    return len(tiles)


def _tile(title: str, image: ImageRecord, kinds: Sequence[str], numbers: dict[str, int], font) -> Image.Image:
    """An image with its boxes and class names, below its name and what is wrong with it."""
    lines = [(_shortened(title, font), _RED if kinds else _BLACK)]
    if kinds:
        lines.append((_shortened(", ".join(kinds), font), _RED))
    picture = draw_boxes(image, numbers, font)
    tile = Image.new("RGB", (_TILE[0], picture.height + len(lines) * (_TEXT + 4)), _WHITE)
    draw = ImageDraw.Draw(tile)
    for i, (line, color) in enumerate(lines):
        draw.text((0, i * (_TEXT + 4)), line, fill=color, font=font)
    tile.paste(picture, ((_TILE[0] - picture.width) // 2, len(lines) * (_TEXT + 4)))
    return tile


def draw_boxes(image: ImageRecord, numbers: dict[str, int], font: ImageFont.ImageFont) -> Image.Image:
    """Draw a readable image with its boxes and class names, scaled to the page."""
    pixels = Image.fromarray(read_image(image.path, annotated_size=image.size))
    scale = min(_TILE[0] / pixels.width, _TILE[1] / pixels.height)
    picture = pixels.resize((max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))))
    draw = ImageDraw.Draw(picture)
    for item in sorted(image.objects, key=lambda o: -o.box[2] * o.box[3]):
        x, y, w, h = (value * scale for value in item.box)
        draw.rectangle((x, y, x + w, y + h), outline=_color(numbers[item.category]), width=1 if item.crowd else 2)
    for item in image.objects:  # names above all boxes
        color = _color(numbers[item.category])
        x, y = item.box[0] * scale, item.box[1] * scale
        text = _printable(item.category) + (" (crowd)" if item.crowd else "")
        width = draw.textlength(text, font=font)
        corner = (max(0, min(x, picture.width - width)), max(0, y - _TEXT - 2))
        draw.rectangle((*corner, corner[0] + width, corner[1] + _TEXT + 2), fill=color)
        draw.text(corner, text, fill=_WHITE if sum(color) < 380 else _BLACK, font=font)
    return picture


def _color(number: int) -> tuple[int, int, int]:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.9, 0.9 if number % 2 else 0.7))


def _font() -> ImageFont.ImageFont:
    """Matplotlib's DejaVu, which covers most alphabets; Pillow's default font without Matplotlib."""
    found = importlib.util.find_spec("matplotlib")
    path = os.path.join(os.path.dirname(found.origin), "mpl-data/fonts/ttf/DejaVuSans.ttf") if found else ""
    return ImageFont.truetype(path, _TEXT - 2) if os.path.isfile(path) else ImageFont.load_default(_TEXT - 2)


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


def _printable(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _shortened(text: str, font: ImageFont.ImageFont) -> str:
    """The end of a text that fits the width of a tile."""
    text = shown = _printable(text)
    while font.getlength(shown) > _TILE[0]:
        text = text[max(1, len(text) // 20) :]
        shown = f"...{text}"
    return shown
