"""Figures of a study: every arm with its seeds and interval, and AP against iterations and processor time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .definition import Study
from .report import ResultsOfStudy, build_report

_INK, _SEED = "#2563ae", "#9aa3ad"


def write_figures(study: Study, results: ResultsOfStudy, folder: Path) -> list[Path]:
    """Draw the figures for which there are results; returns the files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": study.name, "svg.fonttype": "none"}):
        figures = {"arms": draw_arms(study, results), "curves": draw_curves(study, results)}
        written = []
        for name, figure in figures.items():
            if figure is not None:
                folder.mkdir(parents=True, exist_ok=True)
                written.append(folder / f"{study.name}_{name}.svg")
                figure.savefig(written[-1], metadata={"Date": None})
    return written


def draw_arms(study: Study, results: ResultsOfStudy):
    """A row per arm, a panel per dataset: seeds as thin marks, mean and 95 % interval in blue. None without results."""
    from matplotlib.figure import Figure

    datasets = build_report(study, results)["datasets"]
    if not datasets:
        return None
    tallest = max(map(len, datasets.values()))
    figure = Figure(figsize=(4.6 * len(datasets) + 1.5, 0.34 * tallest + 1.1), layout="constrained")
    for axis, (dataset, arms) in zip(
        figure.subplots(1, len(datasets), squeeze=False)[0], datasets.items(), strict=True
    ):
        for row, arm in enumerate(arms.values()):
            one = arm["AP"]
            axis.plot(list(one["seeds"].values()), [row] * len(one["seeds"]), "|", color=_SEED, markersize=9)
            axis.errorbar(
                one["mean"], row, xerr=[[one["mean"] - one["low"]], [one["high"] - one["mean"]]],
                fmt="o", color=_INK, markersize=4, capsize=2, linewidth=1,
            )  # fmt: skip
        axis.set_yticks(range(len(arms)), list(arms), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("AP", fontsize=8)
        axis.set_title(dataset, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_curves(study: Study, results: ResultsOfStudy):
    """AP against iterations and against processor time, seeds as thin lines; None if nothing was recorded."""
    from matplotlib.figure import Figure

    datasets = [d for d in study.datasets if any(r.dataset == d and r.measurement.series for r in results.values())]
    if not datasets:
        return None
    figure = Figure(figsize=(7.5, 2.8 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), 2, squeeze=False, sharey="row")
    for row, dataset in zip(panels, datasets, strict=True):
        for axis, column, label in zip(row, ("iteration", "cpu_seconds"), ("iteration", "processor s"), strict=True):
            for number, arm in enumerate(study.arms):
                _draw_arm(axis, results, arm, dataset, column, color=f"C{number % 10}")
            axis.set_xlabel(f"{label} ({dataset})", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("AP", fontsize=8)
    panels[0][0].legend(fontsize=7, frameon=False)
    return figure


def _draw_arm(axis, results: ResultsOfStudy, arm: str, dataset: str, column: str, *, color: str) -> None:
    series: list[Mapping] = [
        r.measurement.series for (a, d, _), r in results.items() if (a, d) == (arm, dataset) and r.measurement.series
    ]
    for one in series:
        axis.plot(one[column], one["AP"], color=color, linewidth=0.6, alpha=0.6)
    if series:
        points = list(zip(*(one["AP"] for one in series), strict=False))
        means = [sum(values) / len(values) for values in points]
        axis.plot(series[0][column][: len(means)], means, color=color, linewidth=1.8, label=arm)
