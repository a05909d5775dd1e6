"""Draws one image of the *shapes* dataset: textured figures over a textured background, with exact boxes.

Only NumPy and PIL; all randomness comes from the given generator. Boxes are absolute xywh in pixels, where
pixel ``(x, y)`` covers the square from ``(x, y)`` to ``(x + 1, y + 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
_RING_HOLE = 0.55  # inner over outer diameter
_FILLS = ("flat", "gradient", "stripes", "checker", "noise")


@dataclass(frozen=True)
class SceneSettings:
    """The appearance of the dataset's images. Lengths are in pixels.

    Attributes:
        longest_side: of every image; the other side is drawn from ``min_aspect`` to 1 times it, in either
            direction.
        min_aspect: the smallest ratio of the two sides of an image.
        max_objects, mean_objects: a non-empty image has 1 to ``max_objects`` figures, ``mean_objects`` on average,
            before hidden ones are dropped.
        empty_share: probability of an image without objects, in [0, 1].
        min_size, max_size: range of a figure's longer diameter before rotation, sampled log-uniformly.
        min_figure_aspect: the smallest ratio of a figure's two diameters.
        min_visible: figures with a smaller visible share (occlusion and image border) are not drawn.
        min_box_side: the same for figures whose box, clipped to the image, is thinner than this.
        min_contrast: smallest mean colour difference (0 to 255) between a figure and the background's base
            colour.
        background_contrast, clutter_contrast, fill_contrast: largest difference per channel of the background's second
            colour, of the strokes on it (both from its base colour), and of a figure's second colour from its first.
        noise: standard deviation of the pixel noise over the whole image, in grey levels.
    """

    longest_side: int = 128
    min_aspect: float = 0.6
    max_objects: int = 8
    mean_objects: float = 4.0
    empty_share: float = 0.06
    min_size: float = 18.0
    max_size: float = 96.0
    min_figure_aspect: float = 0.65
    min_visible: float = 0.3
    min_box_side: float = 4.0
    min_contrast: float = 60.0
    background_contrast: float = 30.0
    clutter_contrast: float = 45.0
    fill_contrast: float = 55.0
    noise: float = 4.0


@dataclass
class _Figure:
    category: int
    outline: np.ndarray  # (V, 2) absolute xy
    hole: np.ndarray | None

    def area(self) -> float:
        return _polygon_area(self.outline) - (0.0 if self.hole is None else _polygon_area(self.hole))


def draw_scene(rng: np.random.Generator, settings: SceneSettings) -> tuple[np.ndarray, list[dict]]:
    """Draw one image.

    A box is the extent of the part of a figure inside the image, including occluded parts; figures that are mostly
    hidden are not drawn at all.

    Returns:
        The image, ``(height, width, 3)`` uint8 RGB, and one ``{"category": int, "bbox": [x, y, w, h]}`` per
        figure, from back to front.
    """
    height, width = _image_size(rng, settings)
    base = rng.uniform(30, 225, 3)
    image = _texture(
        rng, str(rng.choice(_FILLS)), height, width, base, base + _shift(rng, settings.background_contrast)
    )
    _scribble(rng, image, base, settings.clutter_contrast)

    count = 0
    if rng.random() >= settings.empty_share:
        extra = settings.max_objects - 1
        count = 1 + rng.binomial(extra, (settings.mean_objects - 1) / extra)
    figures = [_random_figure(rng, height, width, settings) for _ in range(count)]
    objects = []
    for figure, box, alpha in _drop_hidden(figures, height, width, settings):
        _paint(rng, image, figure, alpha, base, settings)
        x0, y0, x1, y1 = box
        objects.append({"category": figure.category, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    image += rng.normal(0.0, settings.noise, image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _image_size(rng, settings) -> tuple[int, int]:
    short = round(settings.longest_side * rng.uniform(settings.min_aspect, 1.0))
    size = (settings.longest_side, short)
    return size if rng.random() < 0.5 else size[::-1]


def _random_figure(rng, height: int, width: int, settings) -> _Figure:
    category = int(rng.integers(len(CLASSES)))
    largest = min(settings.max_size, 0.9 * min(height, width))
    size = np.exp(rng.uniform(np.log(settings.min_size), np.log(largest)))
    radii = 0.5 * size * np.array([1.0, rng.uniform(settings.min_figure_aspect, 1.0)])
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0, 1, 2) * (width, height)
    outline = (_unit_outline(CLASSES[category]) * radii) @ rotation.T
    hole = centre + _RING_HOLE * outline if CLASSES[category] == "ring" else None
    return _Figure(category, centre + outline, hole)


def _unit_outline(name: str) -> np.ndarray:
    """Vertices ``(V, 2)`` of a figure of diameter 2 around the origin."""
    if name in ("circle", "ring"):
        return _on_circle(48)
    if name == "square":
        return _on_circle(4, offset=np.pi / 4) * np.sqrt(2)
    if name == "triangle":
        return _on_circle(3, offset=-np.pi / 2)
    if name == "star":
        star = _on_circle(10, offset=-np.pi / 2)
        star[1::2] *= 0.42
        return star
    arm = 0.34  # half the width of a bar of the cross
    corner = np.array([[1, arm], [arm, arm], [arm, 1], [-arm, 1]])
    quarter = np.array([[0, -1], [1, 0]])  # row vectors turned by 90 degrees
    cross = [corner[:3]]
    for _ in range(3):
        cross.append(cross[-1] @ -quarter)
    return np.concatenate(cross)


def _on_circle(vertices: int, offset: float = 0.0) -> np.ndarray:
    angles = offset + 2 * np.pi * np.arange(vertices) / vertices
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon_area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _drop_hidden(figures: list[_Figure], height: int, width: int, settings) -> list[tuple]:
    """Keep the visible figures, as ``(figure, clipped xyxy, alpha)`` from back to front.

    Going from front to back needs one pass: a dropped figure hides nothing behind it. ``alpha`` is the coverage
    of ``(rows, columns)`` of the figure's own window, with the window's top-left corner: ``(coverage, top,
    left)``.
    """
    free = np.ones((height, width), np.float32)
    kept = []
    for figure in reversed(figures):
        inside = _clip_polygon(figure.outline, height, width)
        if len(inside) == 0:
            continue
        inside = np.clip(inside, 0, (width, height))  # rounding of the crossings
        low, high = inside.min(axis=0), inside.max(axis=0)
        if (high - low).min() < settings.min_box_side:
            continue
        alpha, top, left = _coverage(figure, low, high)
        window = free[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        if float((alpha * window).sum()) < settings.min_visible * figure.area():
            continue
        window *= 1 - alpha
        kept.append((figure, [float(v) for v in (*low, *high)], (alpha, top, left)))
    return kept[::-1]


def _clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sutherland-Hodgman: vertices ``(V, 2)`` of the polygon's part inside the image, maybe none."""
    for axis, sign, limit in ((0, 1, 0.0), (1, 1, 0.0), (0, -1, -float(width)), (1, -1, -float(height))):
        distance = sign * points[:, axis] - limit  # inside where not negative
        if len(points) == 0 or distance.min() >= 0:
            continue
        following, next_distance = np.roll(points, -1, axis=0), np.roll(distance, -1)
        crosses = (distance >= 0) != (next_distance >= 0)
        share = distance / np.where(crosses, distance - next_distance, 1.0)
        crossing = points + share[:, None] * (following - points)
        # Each vertex is followed by the crossing of the edge that starts there, which keeps the order of the
        # polygon.
        keep = np.stack([distance >= 0, crosses], axis=1)
        points = np.stack([points, crossing], axis=1)[keep]
    return points


def _coverage(figure: _Figure, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Coverage in [0, 1] of the pixels from ``low`` to ``high`` (absolute xy), and their top and left."""
    left, top = np.floor(low).astype(int)
    right, bottom = np.ceil(high).astype(int)
    factor = 8 if max(right - left, bottom - top) <= 40 else 4
    mask = Image.new("L", (int(right - left) * factor, int(bottom - top) * factor))
    draw = ImageDraw.Draw(mask)
    for points, value in ((figure.outline, 255), (figure.hole, 0)):
        if points is not None:
            # PIL fills the pixels of the border too; 0.5 makes a vertex mean the centre of the pixel it lies
            # in.
            local = np.round((points - (left, top)) * factor - 0.5)
            draw.polygon([tuple(p) for p in local.tolist()], fill=value)
    return np.asarray(mask.reduce(factor), np.float32) / 255, int(top), int(left)


def _paint(rng, image: np.ndarray, figure: _Figure, alpha: tuple, base: np.ndarray, settings) -> None:
    coverage, top, left = alpha
    height, width = coverage.shape
    for _ in range(8):
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - base).mean() >= settings.min_contrast:
            break
    fill = _texture(rng, str(rng.choice(_FILLS)), height, width, colour, colour + _shift(rng, settings.fill_contrast))
    window = image[top : top + height, left : left + width]
    window += coverage[..., None] * (fill - window)


def _texture(rng, kind: str, height: int, width: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A ``(height, width, 3)`` float32 pattern that mixes two colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(4, 14)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    if kind == "flat":
        mix = np.zeros_like(x)
    elif kind == "gradient":
        mix = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    elif kind == "stripes":
        mix = (along % period < period / 2).astype(np.float32)
    elif kind == "checker":
        mix = ((along % period < period / 2) ^ (across % period < period / 2)).astype(np.float32)
    else:
        mix = _smooth_noise(rng, height, width, period)
    return (first + mix[..., None] * (second - first)).astype(np.float32)


def _smooth_noise(rng, height: int, width: int, period: float) -> np.ndarray:
    grid = rng.integers(0, 256, (int(height / period) + 2, int(width / period) + 2), dtype=np.uint8)
    noise = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(noise, np.float32) / 255


def _shift(rng, largest: float) -> np.ndarray:
    return rng.uniform(-largest, largest, 3)


def _scribble(rng, image: np.ndarray, base: np.ndarray, contrast: float) -> None:
    """Draw clutter that is not an object: up to four strokes on the background, in place."""
    height, width, _ = image.shape
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 5)):
        points = rng.uniform(-0.1, 1.1, (3, 2)) * (width, height)
        colour = np.clip(base + _shift(rng, contrast), 0, 255).astype(int)
        stroke = [tuple(p) for p in np.round(points).tolist()]
        draw.line(stroke, fill=tuple(colour.tolist()), width=int(rng.integers(1, 4)))
    image[:] = np.asarray(canvas, np.float32)
