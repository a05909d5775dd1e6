"""Stage strips: one image with one column per stage and the same queries in every column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .analysis import StageAnalysis
from .stage_errors import StageErrors
from .tracks import QueryTrack, follow, worst_cases

# Colour and line style are redundant, so that they are distinguishable in greyscale.
STYLES = {
    "true": ("#1a7f37", "-", "true positive"),
    "faded": ("#d98200", (0, (6, 2)), "true positive that faded"),
    "false": ("#7a7a7a", (0, (1, 1.5)), "false positive"),
    "exacerbated": ("#c1121f", (0, (4, 1, 1, 1)), "false positive that was exacerbated"),
    "ignored": ("#4a6fa5", (0, (2, 2)), "on a crowd region"),
    "unjudged": ("#1f5fbf", (0, (9, 1)), "query"),
}


def draw_stage_strip(
    image: np.ndarray,
    tracks: Sequence[QueryTrack],
    class_names: Sequence[str],
    *,
    objects: np.ndarray | None = None,
    margin: float = 0.35,
    title: str = "",
):
    """Draw queries of one image through the stages.

    Args:
        image: ``(height, width, 3)`` uint8 RGB, the original image.
        tracks: queries to draw, all of this image.
        class_names: ``K`` names.
        objects: ``(n, 4)`` boxes of objects ``(x, y, width, height)``, drawn as thin white lines.
        margin: surroundings to show, as a fraction of the tracks' extent.
        title: above the strip.

    Returns:
        A matplotlib ``Figure``; write it with ``savefig``.

    Raises:
        ValueError: no tracks.
    """
    if not tracks:
        raise ValueError("a stage strip needs at least one query to draw")
    import matplotlib
    from matplotlib.figure import Figure

    num_stages = len(tracks[0].score)
    left, top, right, bottom = _window(image, tracks, margin)
    ratio = (bottom - top) / (right - left)
    width = 2.1
    with matplotlib.rc_context({"font.size": 8}):
        height = width * ratio + 0.8 + 0.14 * len(tracks) + (0.35 if title else 0.0)
        figure = Figure(figsize=(width * num_stages, height), layout="constrained", dpi=150)
        axes = np.atleast_1d(figure.subplots(1, num_stages))
        for s, axis in enumerate(axes):
            axis.imshow(image)
            for box in () if objects is None else objects:
                _rectangle(axis, box, "black", "-", 2.0, alpha=0.5)
                _rectangle(axis, box, "white", "-", 1.0)
            for number, track in enumerate(tracks, start=1):
                _draw_query(axis, track, s, number)
            axis.set_xlim(left, right)
            axis.set_ylim(bottom, top)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"stage {s + 1}", loc="left", fontweight="bold")
            captions = [_caption(t, s, n, class_names) for n, t in enumerate(tracks, start=1)]
            axis.set_xlabel("\n".join(captions), loc="left", fontsize=7)
        used = [v for v in STYLES if any(v in t.verdict for t in tracks)]
        figure.legend(
            handles=[_handle(v) for v in used], loc="outside lower left", ncols=len(used), frameon=False, fontsize=8
        )
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure


def write_stage_strips(
    analysis: StageAnalysis, directory: str | Path, *, image_root: str | Path, count: int = 6, queries: int = 3
) -> list[Path]:
    """Write strips of the images with the worst faded and exacerbated queries, at the first IoU threshold.

    Args:
        analysis: what to show.
        directory: for the files ``strip_NAME.png``, one per image.
        image_root: folder of the dataset's images.
        count: images, half of them for faded true positives, half for exacerbated false positives.
        queries: queries to follow per image.

    Returns:
        The paths written; images missing in ``image_root`` are skipped.
    """
    if not analysis.errors or count < 1:
        return []
    errors, directory = analysis.errors[0], Path(directory)
    images: list[int] = []
    for cases, share in ((errors.true, (count + 1) // 2), (errors.false, count // 2)):
        worst = [int(cases.image[n]) for n in worst_cases(analysis, cases, count=count, per_image=1)]
        images += [image for image in worst if image not in images][:share]
    paths = []
    for image in images:
        file_name = Path(analysis.gt.file_names[image])
        if not (Path(image_root) / file_name).is_file():
            continue
        figure = draw_stage_strip(
            np.asarray(Image.open(Path(image_root) / file_name).convert("RGB")),
            worst_tracks_of_image(analysis, errors, image, count=queries),
            analysis.gt.class_names,
            objects=analysis.gt.box[analysis.gt.image == image],
            title=str(file_name),
        )
        directory.mkdir(parents=True, exist_ok=True)
        paths.append(directory / f"strip_{'_'.join(file_name.with_suffix('').parts)}.png")
        figure.savefig(paths[-1])
    return paths


def worst_tracks_of_image(
    analysis: StageAnalysis, errors: StageErrors, position: int, *, count: int = 3
) -> list[QueryTrack]:
    """The most severe faded and exacerbated queries of one image, worst first.

    Args:
        analysis: that contains the image.
        errors: at the IoU threshold of interest.
        position: of the image in ``analysis.gt.image_ids``.
        count: how many.
    """
    tracks = []
    for cases in (errors.true, errors.false):
        inside = np.flatnonzero((cases.image == position) & cases.bad)
        tracks += follow(analysis, errors, cases, inside)
    return sorted(tracks, key=lambda t: -t.severity)[:count]


def _window(image: np.ndarray, tracks: Sequence[QueryTrack], margin: float) -> tuple[float, float, float, float]:
    """The part of the image that holds every track's boxes and some surroundings: left, top, right, bottom."""
    boxes = np.concatenate([t.box[t.label >= 0] for t in tracks])
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    centre, side = (low + high) / 2, (high - low).max() * (1 + 2 * margin)
    height, width = image.shape[:2]
    half = np.minimum(max(side, 32.0), [width, height]) / 2
    centre = np.clip(centre, half, np.asarray([width, height]) - half)
    return (*(centre - half).tolist(), *(centre + half).tolist())


def _draw_query(axis, track: QueryTrack, stage: int, number: int) -> None:
    if track.label[stage] < 0:
        return
    colour, line, _ = STYLES[track.verdict[stage]]
    _rectangle(axis, track.box[stage], "white", "-", 3.2, alpha=0.7)
    _rectangle(axis, track.box[stage], colour, line, 1.8)
    x, y = track.box[stage, :2]
    axis.annotate(
        str(number), (x, y), (2, -2), textcoords="offset points", va="top", fontsize=7, color="white", clip_on=True,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "white", "linewidth": 0.5},
    )  # fmt: skip


def _rectangle(axis, box: np.ndarray, colour: str, line, width: float, alpha: float = 1.0) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(
        Rectangle(box[:2], box[2], box[3], fill=False, edgecolor=colour, linestyle=line, linewidth=width, alpha=alpha)
    )


def _caption(track: QueryTrack, stage: int, number: int, class_names: Sequence[str]) -> str:
    if track.label[stage] < 0:
        return f"{number}: -"
    mark = "  best" if stage == track.best_stage else ""
    name = class_names[track.label[stage]]
    overlap = "" if np.isnan(track.iou[stage]) else f", IoU {track.iou[stage]:.2f}"
    return f"{number}: {name} {track.score[stage]:.2f}{overlap}{mark}"


def _handle(verdict: str):
    from matplotlib.lines import Line2D

    colour, line, text = STYLES[verdict]
    return Line2D([], [], color=colour, linestyle=line, linewidth=1.8, label=text)
