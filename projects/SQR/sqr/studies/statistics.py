"""Means, intervals over seeds and images, and detectable differences.

A study's mean over ``n`` seeds on ``N`` images is uncertain for two reasons: another seed would train another
model, and other images would score it differently. The variance of the mean is taken as the sum of both::

    var(mean) = var(values of the seeds) / n  +  var(mean over seeds, over bootstrap resamples of the images)

and the interval is Student's, with Welch and Satterthwaite's degrees of freedom (the second part has as many as there
are resamples). A difference of two arms is *paired*: seed by seed, which start from the same weights and see the same
batches as far as the arms allow, and resample by resample. With a single seed only the images are accounted for, which
is stated wherever such an interval is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .results import Result

LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: over seeds.
        low, high: of the 95 % interval.
        seeds: the value of each seed.
        seed_error, image_error: standard errors of the mean by seeds (None with one seed) and by images.
        detectable: the smallest true value that such a study distinguishes from 0 in 80 % of its repetitions.
    """

    mean: float
    low: float
    high: float
    seeds: Mapping[int, float]
    seed_error: float | None
    image_error: float
    detectable: float


def estimate(values: Mapping[int, float], resampled: Mapping[int, Sequence[float]]) -> Estimate:
    """The mean of an arm, or of a paired difference.

    Args:
        values: by seed.
        resampled: by seed, on each resample of the images.

    Raises:
        ValueError: no seed, or different seeds.
    """
    if not values or values.keys() != resampled.keys():
        raise ValueError(f"values of the seeds {list(values)} and resamples of {list(resampled)}")
    count = len(values)
    mean = float(np.mean(list(values.values())))
    draws = np.mean([np.asarray(resampled[seed], dtype=np.float64) for seed in values], axis=0)
    by_image = float(np.var(draws, ddof=1))
    by_seed = float(np.var(list(values.values()), ddof=1)) / count if count > 1 else 0.0
    error = np.sqrt(by_seed + by_image)
    parts = [(by_image, len(draws) - 1)] + ([(by_seed, count - 1)] if count > 1 else [])
    weight = sum(part**2 / df for part, df in parts)
    freedom = (by_seed + by_image) ** 2 / weight if weight else len(draws) - 1
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    return Estimate(
        mean=mean,
        low=float(mean - half),
        high=float(mean + half),
        seeds=dict(values),
        seed_error=float(np.sqrt(by_seed)) if count > 1 else None,
        image_error=float(np.sqrt(by_image)),
        detectable=float(half + stats.t.ppf(POWER, freedom) * error),
    )


def arm_estimate(results: Mapping[int, Result]) -> Estimate:
    """Mean AP of an arm from its results by seed."""
    return estimate({s: r.value for s, r in results.items()}, {s: r.measurement.resampled for s, r in results.items()})


def difference(first: Mapping[int, Result], second: Mapping[int, Result]) -> Estimate | None:
    """The second arm's AP minus the first's over their common seeds; None if there are none."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    return estimate(
        {s: second[s].value - first[s].value for s in shared},
        {s: np.subtract(second[s].measurement.resampled, first[s].measurement.resampled) for s in shared},
    )
