"""Figures for papers and notes, with matplotlib: readable in black and white, with units on every axis.

Lines differ by dash and marker, bars by hatching, not only by colour. Everything here imports matplotlib only when
called, and draws without a display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .analysis import StageAnalysis, best_stage_histogram
from .matching import pair_iou
from .operating_figures import draw_confusion, draw_f1, draw_precision_recall, draw_training
from .stage_errors import StageErrors

_STYLES = (
    {"color": "#1b1b1b", "linestyle": "-", "marker": "o"},
    {"color": "#2563ae", "linestyle": "--", "marker": "s"},
    {"color": "#b3541e", "linestyle": ":", "marker": "^"},
    {"color": "#5b7f2b", "linestyle": "-.", "marker": "D"},
)
_FILLS = (
    {"facecolor": "#3d5a80", "hatch": ""},
    {"facecolor": "#c9d6e8", "hatch": "///"},
    {"facecolor": "#e9c39b", "hatch": "..."},
    {"facecolor": "#ffffff", "hatch": "xx"},
)
_RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 5,
    "savefig.dpi": 200,
}


def write_figures(
    analyses: Mapping[str, StageAnalysis],
    directory: str | Path,
    *,
    metrics: Sequence[Mapping] = (),
    formats: Sequence[str] = ("png", "pdf"),
) -> list[Path]:
    """Draw every figure for one or more models.

    Args:
        analyses: by name; the names label lines and bars. Up to four.
        directory: for ``ap_by_stage``, ``precision_recall``, ``f1``, ``confusion``, ``rates``, ``by_stage``,
            ``best_stage``, ``trajectories`` and ``training``.
        metrics: rows of the ``metrics.json`` of the training, for ``training``.
        formats: file extensions that matplotlib supports.

    Returns:
        The paths written.
    """
    import matplotlib

    figures = {
        "ap_by_stage": draw_ap_by_stage,
        "precision_recall": draw_precision_recall,
        "f1": draw_f1,
        "confusion": draw_confusion,
    }
    if all(a.errors for a in analyses.values()):
        figures |= {
            "rates": draw_rates,
            "by_stage": draw_hits_by_stage,
            "best_stage": draw_best_stage,
            "trajectories": draw_trajectories,
        }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_RC):
        drawn = {name: draw(analyses) for name, draw in figures.items()}
        if (training := draw_training(metrics)) is not None:
            drawn["training"] = training
        for name, figure in drawn.items():
            for ending in formats:
                paths.append(directory / f"{name}.{ending}")
                metadata = {"CreationDate": None} if ending == "pdf" else None
                figure.savefig(paths[-1], bbox_inches="tight", metadata=metadata)
    return paths


def _subplots(columns: int = 1, width: float = 3.6, height: float = 2.7):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def _stages_axis(axis, num_stages: int) -> None:
    axis.set_xlabel("decoder stage")
    axis.set_xticks(range(1, num_stages + 1))


def draw_ap_by_stage(analyses: Mapping[str, StageAnalysis]):
    """AP, AP50 and AP75 (%) after every stage; the oracle as a solid line, the oracle by chance as a dotted one."""
    figure, axes = _subplots(3, width=2.7)
    for axis, metric in zip(axes, ("AP", "AP50", "AP75"), strict=True):
        for n, ((name, analysis), style) in enumerate(zip(analyses.items(), _STYLES, strict=False)):
            values = [m[metric] for m in analysis.stages]
            axis.plot(range(1, len(values) + 1), values, label=name, **style)
            if analysis.oracle is not None:
                axis.axhline(
                    analysis.oracle[metric],
                    color=style["color"],
                    linestyle=style["linestyle"],
                    linewidth=0.8,
                    alpha=0.6,
                )
                if metric == "AP" and analysis.chance is not None:
                    axis.plot(
                        [1, len(values)], [analysis.chance.mean] * 2, color=style["color"], linestyle=(0, (1, 3)),
                        linewidth=1, label=f"oracle by chance, {name}",
                    )  # fmt: skip
                axis.annotate(
                    f"oracle, {name}", (0.02 + 0.5 * n, analysis.oracle[metric]), (0, 2), fontsize=7,
                    xycoords=("axes fraction", "data"), textcoords="offset points", color=style["color"],
                )  # fmt: skip
        axis.set_ylabel(f"{metric} (%)")
        axis.set_ylim(bottom=0)
        _stages_axis(axis, max(a.predictions.num_stages for a in analyses.values()))
    axes[0].legend(loc="lower right")
    return figure


def draw_rates(analyses: Mapping[str, StageAnalysis]):
    """TP fading and FP exacerbation rates (%) by IoU threshold, the marginal part hatched, chance as a line across."""
    figure, axes = _subplots(2)
    titles = (("TP fading rate (%)", "true"), ("FP exacerbation rate (%)", "false"))
    width = 0.8 / len(analyses)
    for axis, (title, kind) in zip(axes, titles, strict=True):
        for n, (name, analysis) in enumerate(analyses.items()):
            fill = _FILLS[n % len(_FILLS)]
            for x, errors in enumerate(analysis.errors):
                cases = getattr(errors, kind)
                whole = max(len(cases), 1)
                marginal = 100 * cases.marginal(0.05).sum() / whole
                rate = 100 * cases.bad.sum() / whole
                at = x + (n - (len(analyses) - 1) / 2) * width
                axis.bar(
                    at, rate - marginal, width, edgecolor="black", linewidth=0.6, label=name if not x else None, **fill
                )
                axis.bar(
                    at, marginal, width, bottom=rate - marginal, facecolor="white", edgecolor="black", linewidth=0.6,
                    hatch="....", label="better by < 0.05" if not x and n == len(analyses) - 1 else None,
                )  # fmt: skip
                if kind == "true" and errors.fading_by_chance.size:
                    level = 100 * errors.fading_by_chance.mean()
                    axis.plot([at - width / 2, at + width / 2], [level] * 2, color="#c0392b", linewidth=1.4, zorder=4,
                              label="by chance" if not x and not n else None)  # fmt: skip
                axis.annotate(f"{rate:.1f}", (at, rate), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        first = next(iter(analyses.values()))
        axis.set_xticks(range(len(first.errors)), [f"IoU {e.iou:g}" for e in first.errors])
        axis.set_ylabel(title)
        axis.margins(y=0.15)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_hits_by_stage(analyses: Mapping[str, StageAnalysis]):
    """Share (%) of last-stage true (false) positives for which each earlier stage was better."""
    figure, axes = _subplots(2)
    titles = (("true positives: earlier was better (%)", "true"), ("false positives: earlier was better (%)", "false"))
    for axis, (title, kind) in zip(axes, titles, strict=True):
        for (name, analysis), style in zip(analyses.items(), _STYLES, strict=False):
            for errors, filled in zip(analysis.errors, ("full", "none", "none"), strict=False):
                cases = getattr(errors, kind)
                share = 100 * cases.hit.sum(axis=1) / max(len(cases), 1)
                axis.plot(
                    range(1, len(share) + 1), share, label=f"{name}, IoU {errors.iou:g}", fillstyle=filled, **style
                )
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        _stages_axis(axis, max(a.predictions.num_stages for a in analyses.values()) - 1)
    axes[0].legend(loc="upper left")
    return figure


def draw_best_stage(analyses: Mapping[str, StageAnalysis]):
    """At which stage the queries of last-stage true positives (at the first IoU) were best, in %."""
    figure, axes = _subplots(1)
    width = 0.8 / len(analyses)
    for n, (name, analysis) in enumerate(analyses.items()):
        counts = best_stage_histogram(analysis.errors[0].true)
        at = np.arange(1, len(counts) + 1) + (n - (len(analyses) - 1) / 2) * width
        share = 100 * counts / max(counts.sum(), 1)
        axes[0].bar(at, share, width, edgecolor="black", linewidth=0.6, label=name, **_FILLS[n % len(_FILLS)])
        for x, y in zip(at, share, strict=True):
            axes[0].annotate(f"{y:.0f}", (x, y), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes[0].set_ylabel("true positives best at this stage (%)")
    _stages_axis(axes[0], max(a.predictions.num_stages for a in analyses.values()))
    axes[0].legend(loc="upper left")
    return figure


def draw_trajectories(analyses: Mapping[str, StageAnalysis]):
    """Median score and IoU through the stages, with quartiles, of true positives that faded and that did not."""
    figure, axes = _subplots(2 * len(analyses), width=2.6)
    for n, (name, analysis) in enumerate(analyses.items()):
        errors = analysis.errors[0]
        score, iou = score_and_iou(analysis, errors)
        bad = errors.true.bad
        for axis, values, label in zip(axes[2 * n : 2 * n + 2], (score, iou), ("score", "IoU"), strict=True):
            for chosen, text, style in ((~bad, "not faded", _STYLES[0]), (bad, "faded", _STYLES[2])):
                if not chosen.any():
                    continue
                low, middle, high = np.nanquantile(values[:, chosen], (0.25, 0.5, 0.75), axis=1)
                stages = range(1, len(middle) + 1)
                axis.plot(stages, middle, label=f"{text} ({chosen.sum()})", **style)
                axis.fill_between(stages, low, high, color=style["color"], alpha=0.12, linewidth=0)
            axis.set_ylabel(f"{label}, median and quartiles")
            axis.set_ylim(0, 1)
            axis.set_title(name, loc="left")
            _stages_axis(axis, analysis.predictions.num_stages)
        if len(bad):
            axes[2 * n].legend(loc="lower right")
    return figure


def score_and_iou(analysis: StageAnalysis, errors: StageErrors) -> tuple[np.ndarray, np.ndarray]:
    """``(S, n)`` scores and IoU with their object of the queries of the ``n`` last-stage true positives.

    A query's score is that of its best class at each stage; NaN where a stage lacks the query.
    """
    cases, gt = errors.true, analysis.gt
    rows = np.concatenate([cases.earlier, cases.row[None]])
    score, iou = np.full(rows.shape, np.nan), np.full(rows.shape, np.nan)
    for s, table in enumerate(analysis.predictions.queries):
        there = np.flatnonzero(rows[s] >= 0)
        row, objects = rows[s, there], cases.gt[there]
        score[s, there] = table.score[row]
        iou[s, there] = pair_iou(table.box[row].astype(np.float64), gt.box[objects], gt.crowd[objects])
    return score, iou
