"""Figures by score threshold (precision and recall, F1, confusion) and of a training, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .analysis import StageAnalysis
from .average_precision import precision_at_recalls
from .operating_points import OperatingCurve

_FEW = 10  # number of classes with a line style and a legend entry of their own
_DASHES = ("-", "--", ":", "-.")
_GRID = np.linspace(0, 1, 101)


def draw_precision_recall(analyses: Mapping[str, StageAnalysis]):
    """Precision by recall of every class at IoU 0.5, and COCO's interpolated mean over classes, whose area is AP50."""
    figure, axes = _panels(len(analyses))
    for axis, (name, analysis) in zip(axes, analyses.items(), strict=True):
        _class_lines(axis, analysis, "recall", "precision")
        precision = precision_at_recalls(analysis.curves[-1])[0, :, :, 0]  # (recalls, classes)
        known = precision[:, (precision > -1).all(axis=0)]
        if known.size:
            mean = known.mean(axis=1)
            axis.plot(_GRID, mean, color="black", linewidth=2.2, label=f"mean (AP50 {100 * mean.mean():.1f})")
        _finish(axis, name, "recall", "precision at IoU 0.5")
    return figure


def draw_f1(analyses: Mapping[str, StageAnalysis]):
    """F1 by score threshold of every class at IoU 0.5, and their mean; the title names the mean's best threshold."""
    figure, axes = _panels(len(analyses))
    for axis, (name, analysis) in zip(axes, analyses.items(), strict=True):
        curves = [curve for curve in analysis.operating_curves() if len(curve.score)]
        _class_lines(axis, analysis, "score", "f1")
        if curves:
            mean = np.mean([_at(curve, _GRID) for curve in curves], axis=0)
            best = int(np.argmax(mean))
            axis.plot(_GRID, mean, color="black", linewidth=2.2, label="mean")
            axis.axvline(_GRID[best], color="black", linewidth=0.8)
            name = f"{name}: best for all classes {_GRID[best]:.2f} (F1 {mean[best]:.2f})"
        _finish(axis, name, "score threshold", "F1 at IoU 0.5")
    return figure


def draw_confusion(analyses: Mapping[str, StageAnalysis]):
    """Confusion matrices: rows the true class, columns the detected one, shades the share of a row."""
    first = next(iter(analyses.values()))
    names = [*first.gt.class_names, "background"]
    side = float(np.clip(0.45 * len(names) + 1.2, 3.4, 12))
    figure, axes = _panels(len(analyses), width=side + 0.4, height=side)
    size = float(np.clip(160 / len(names), 3, 8))
    for axis, (title, analysis) in zip(axes, analyses.items(), strict=True):
        counts = analysis.confusion()
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axis.grid(False)
        for row, column in np.argwhere(counts) if len(names) <= 25 else ():
            ink = "white" if share[row, column] > 0.6 else "black"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=ink, fontsize=size)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axis.set_yticks(range(len(names)), names, fontsize=size)
        axis.set_title(title, loc="left")
        axis.set_xlabel("detected")
        axis.set_ylabel("true")
    return figure


def draw_training(rows: Sequence[Mapping[str, float]]):
    """Loss and AP by iteration, from the rows of a run's ``metrics.json``; None if there is neither."""
    panels = []
    for label, keys in (("loss", ("total_loss",)), ("AP (%)", ("bbox/AP", "bbox/AP50", "ema/bbox/AP"))):
        lines = {
            key: [(row["iteration"], row[key]) for row in rows if "iteration" in row and key in row] for key in keys
        }
        lines = {key: points for key, points in lines.items() if points}
        if lines:
            panels.append((label, lines))
    if not panels:
        return None
    figure, axes = _panels(len(panels))
    for axis, (label, lines) in zip(axes, panels, strict=True):
        for (key, points), dash in zip(lines.items(), _DASHES, strict=False):
            marker = "o" if len(points) < 30 else None
            axis.plot(*zip(*points, strict=True), linestyle=dash, marker=marker, markersize=3, label=key)
        axis.set_xlabel("iteration")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend()
    return figure


def _panels(columns: int, width: float = 4.6, height: float = 3.4):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def _class_lines(axis, analysis: StageAnalysis, x: str, y: str) -> None:
    curves = analysis.operating_curves()
    for number, (curve, name) in enumerate(zip(curves, analysis.gt.class_names, strict=True)):
        style = {"color": "#9aa3ad", "linewidth": 0.6}
        if len(curves) <= _FEW:
            style = {"color": f"C{number}", "linestyle": _DASHES[number % 4], "linewidth": 1, "label": name}
        axis.plot(getattr(curve, x), getattr(curve, y), **style)


def _at(curve: OperatingCurve, thresholds: np.ndarray) -> np.ndarray:
    """F1 of the detections at or above each threshold, 0 if there are none."""
    last = np.searchsorted(-curve.score, -thresholds, side="right") - 1
    return np.where(last < 0, 0.0, curve.f1[np.maximum(last, 0)])


def _finish(axis, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=7)
