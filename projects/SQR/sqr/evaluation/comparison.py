"""Compares the headline numbers of two models on the same images, with bootstrap intervals over images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .analysis import StageAnalysis
from .average_precision import ClassCurve, mean_precision, precision_at_recalls
from .oracle import oracle_precision
from .stage_errors import Cases
from .table_output import text_table

Metric = Callable[[np.ndarray], float]


def compare(
    first: StageAnalysis,
    second: StageAnalysis,
    *,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Compare two analyses number by number.

    Images are drawn with replacement, with the same draw for both models, so the interval of the difference is paired
    and narrower than the two intervals suggest. Intervals are the 2.5 % and 97.5 % quantiles.

    Args:
        first, second: analyses of the same images.
        names: of the models.
        resamples: draws; 0 omits the intervals.
        seed: of the draws.
        progress: called with a line of text from time to time.

    Returns:
        ``names``, ``images``, ``resamples`` and ``rows``: dicts of ``metric``, ``values`` (two), ``intervals`` (two
        pairs or None), ``difference`` (second minus first) and its ``difference_interval``. Percent throughout.

    Raises:
        ValueError: the analyses are of different images or classes.
    """
    if first.gt.image_ids.tolist() != second.gt.image_ids.tolist():
        raise ValueError(
            f"the two sets of predictions are for different images ({len(first.gt.image_ids)} and "
            f"{len(second.gt.image_ids)}): evaluate both on the same dataset"
        )
    if first.gt.class_names != second.gt.class_names:
        raise ValueError("the two sets of predictions are for different classes")
    metrics = [metric_functions(a) for a in (first, second)]
    labels = sorted({*metrics[0], *metrics[1]}, key=[*metrics[0], *metrics[1]].index)
    count = len(first.gt.image_ids)
    points = _evaluate(metrics, labels, np.ones(count, dtype=np.int64))
    rng = np.random.default_rng(seed)
    draws = []
    for n in range(resamples):
        if progress and n % 20 == 0:
            progress(f"bootstrap: {n} of {resamples} resamples")
        weights = np.bincount(rng.integers(0, count, size=count), minlength=count)
        draws.append(_evaluate(metrics, labels, weights))
    samples = np.stack(draws) if draws else None  # (resamples, metrics, 2)
    rows = []
    for m, label in enumerate(labels):
        difference = points[m, 1] - points[m, 0]
        one = None if samples is None else samples[:, m]
        rows.append(
            {
                "metric": label,
                "values": [_number(x) for x in points[m]],
                "intervals": None if one is None else [_interval(one[:, 0]), _interval(one[:, 1])],
                "difference": _number(difference),
                "difference_interval": None if one is None else _interval(one[:, 1] - one[:, 0]),
            }
        )
    return {"names": list(names), "images": count, "resamples": resamples, "seed": seed, "rows": rows}


def metric_functions(analysis: StageAnalysis) -> dict[str, Metric]:
    """Functions from image weights ``(N,)`` to every headline number of an analysis, in percent."""

    def average_precision(stage: int) -> Metric:
        return lambda weights: mean_precision(precision_at_recalls(analysis.curves[stage], weights))

    metrics = {f"AP stage {s + 1}": average_precision(s) for s in range(len(analysis.curves))}
    if analysis.oracle_curves is not None:
        metrics["AP oracle"] = lambda weights: mean_precision(oracle_precision(analysis.oracle_curves, weights))
    if analysis.chance_curves:
        by_chance = functools.partial(_mean_oracle, analysis.chance_curves)
        metrics["AP oracle by chance"] = by_chance
        metrics["AP oracle above chance"] = _difference(metrics["AP oracle"], by_chance)
    count = len(analysis.gt.image_ids)
    for errors in analysis.errors:
        fading = metrics[f"TP fading at IoU {errors.iou:g}"] = _case_rate(errors.true, errors.true.bad, count)
        if errors.fading_by_chance.size:
            chance = _case_rate(errors.true, errors.fading_by_chance.mean(axis=0), count)
            metrics[f"TP fading at IoU {errors.iou:g} by chance"] = chance
            metrics[f"TP fading at IoU {errors.iou:g} above chance"] = _difference(fading, chance)
        metrics[f"FP exacerbation at IoU {errors.iou:g}"] = _case_rate(errors.false, errors.false.bad, count)
    return metrics


def format_comparison(comparison: dict) -> str:
    """The comparison as a table for terminals and Markdown files."""
    first, second = comparison["names"]
    rows = []
    for row in comparison["rows"]:
        pairs = row["intervals"] or [None, None]
        cells = [_with_interval(v, i) for v, i in zip(row["values"], pairs, strict=True)]
        rows.append([row["metric"], *cells, _with_interval(row["difference"], row["difference_interval"], "+.2f")])
    note = f"{comparison['images']} images; in brackets 95 % bootstrap intervals over images "
    note += f"({comparison['resamples']} resamples, paired for the difference)."
    return text_table(("%", first, second, "difference"), rows) + "\n\n" + note


def _evaluate(metrics: list[dict[str, Metric]], labels: list[str], weights: np.ndarray) -> np.ndarray:
    nothing = lambda _: float("nan")  # noqa: E731
    return np.asarray([[one.get(label, nothing)(weights) for one in metrics] for label in labels])


def _mean_oracle(draws: list[list[list[ClassCurve]]], weights: np.ndarray) -> float:
    return float(np.mean([mean_precision(oracle_precision(curves, weights)) for curves in draws]))


def _difference(first: Metric, second: Metric) -> Metric:
    return lambda weights: first(weights) - second(weights)


def _case_rate(cases: Cases, share: np.ndarray, num_images: int) -> Metric:
    """The mean of ``share`` (of each case, 0 to 1) over cases, in percent."""
    total = np.bincount(cases.image, minlength=num_images)
    bad = np.bincount(cases.image, weights=share.astype(np.float64), minlength=num_images)

    def rate(weights: np.ndarray) -> float:
        whole = weights @ total
        return 100.0 * float(weights @ bad) / float(whole) if whole else float("nan")

    return rate


def _interval(values: np.ndarray) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(x) for x in np.quantile(values, (0.025, 0.975))] if len(values) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _with_interval(value: float | None, interval: list[float] | None, form: str = ".2f") -> str:
    if value is None:
        return "-"
    text = f"{value:{form}}"
    return text if interval is None else f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]"
