"""Pictures of predictions."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw, ImageFont

from ..evaluation.stage_strip import draw_stage_strip
from ..evaluation.tracks import QueryTrack
from ..structures import ImagePredictions

Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


def class_color(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class: determined by its number, so equal in all pictures, and unlike its neighbours'."""
    hue = label * 0.618034 % 1  # the golden ratio spreads any number of hues
    saturation, value = ((0.85, 0.95), (0.55, 1.0), (0.9, 0.65))[label // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray, instances: Instances, class_names: Sequence[str], *, smallest: int = 512
) -> np.ndarray:
    """Draw boxes, names and scores.

    Lines and text scale with the picture, labels are placed beside their boxes without covering each other if
    possible, and better detections are on top.

    Args:
        image: ``(height, width, 3)`` uint8 RGB.
        instances: in pixels of the image; boxes are clipped to it.
        class_names: ``K`` names.
        smallest: enlarge images whose longer side has fewer pixels, which leaves room for the names; 0 never does.

    Returns:
        A picture of the same kind.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = max(1.0, smallest / max(picture.size))
    if scale > 1:
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    longer = max(picture.size)
    font, line = _font(max(11, round(longer / 65))), max(2, round(longer / 350))
    canvas = ImageDraw.Draw(picture)
    order = instances.scores.argsort(descending=True).tolist()
    boxes = Boxes(instances.pred_boxes.tensor.detach().cpu() * scale)
    boxes.clip(picture.size[::-1])
    boxes, labels, scores = boxes.tensor.tolist(), instances.pred_classes.tolist(), instances.scores.tolist()
    for i in reversed(order):
        canvas.rectangle(boxes[i], outline=class_color(labels[i]), width=line)
    taken: list[Rectangle] = []
    for i in order:
        text, color = f"{class_names[labels[i]]} {scores[i]:.0%}", class_color(labels[i])
        _, _, right, bottom = canvas.textbbox((0, 0), text, font=font)
        place = _label_place(boxes[i], (right + 2 * line, bottom + line), picture.size, taken)
        taken.append(place)
        canvas.rectangle(place, fill=color)
        light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        canvas.text((place[0] + line, place[1]), text, font=font, fill="black" if light else "white")
    return np.asarray(picture)


def _label_place(
    box: Sequence[float], size: tuple[float, float], picture: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """The position of a label with the least overlap with earlier labels: above, below, or inside its box."""
    left, top, right, bottom = box
    width, height = size
    corners = [(left, top - height), (left, bottom), (left, top), (right - width, bottom - height)]
    places = []
    for x, y in corners:
        x = min(max(x, 0.0), max(picture[0] - width, 0.0))
        y = min(max(y, 0.0), max(picture[1] - height, 0.0))
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(first: Rectangle, second: Rectangle) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font shipped with matplotlib, which has letters beyond ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def draw_stages(
    image: np.ndarray, outputs: ImagePredictions, class_names: Sequence[str], *, queries: int = 3, title: str = ""
):
    """Draw the best queries of the last stage in every stage.

    Args:
        image: ``(height, width, 3)`` uint8 RGB.
        outputs: of the model's ``forward_stages``.
        class_names: ``K`` names.
        queries: number of queries.
        title: above the strip.

    Returns:
        A matplotlib ``Figure``; write it with ``savefig``.
    """
    return draw_stage_strip(image, best_tracks(outputs, queries), class_names, title=title)


def best_tracks(outputs: ImagePredictions, count: int) -> list[QueryTrack]:
    """The queries with the highest last-stage scores, with the best class of each stage."""
    scores, labels = (x.cpu().numpy() for x in outputs.scores.max(-1))  # (S, Q)
    boxes = outputs.boxes.cpu().numpy()  # (S, Q, 4)
    boxes = np.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), axis=-1)
    num_stages = len(scores)
    return [
        QueryTrack(
            image=0,
            query=int(query),
            gt=-1,
            label=labels[:, query],
            score=scores[:, query],
            box=boxes[:, query],
            iou=np.full(num_stages, np.nan),
            verdict=["unjudged"] * num_stages,
            best_stage=-1,
            severity=0.0,
        )
        for query in np.argsort(-scores[-1], kind="stable")[:count]
    ]
