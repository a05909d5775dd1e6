"""The oracle over stages and the fading rate if the stages' differences were meaningless.

Both look for *some* earlier stage that was better, with the ground truth deciding which. They are therefore large even
if stages differ only by noise: the best of six equal coins looks like a good coin. The chance level keeps everything
about the detections (their last scores, their boxes at every stage, what they were matched to, how much scores move
between stages) but gives each the *score changes of another one* with a similar last score that is present at the same
stages. Changes then keep their sizes and their dependence on the score, but are unrelated to whether this detection is
right. The excess above this level is what earlier stages know and the last one does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 5
BLOCK = 50
"""Detections of neighbouring scores that changes are exchanged among."""


@dataclass(frozen=True)
class Chance:
    """A number under several random exchanges, in percent."""

    draws: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.draws))

    @property
    def spread(self) -> float:
        """Standard deviation over draws; 0 with a single one."""
        return float(np.std(self.draws, ddof=1)) if len(self.draws) > 1 else 0.0

    def summary(self, value: float) -> dict:
        """For reports: the mean, its spread, the draws, and the excess of ``value`` over the mean."""
        return {
            "mean": self.mean,
            "spread": self.spread,
            "draws": list(self.draws),
            "excess": value - self.mean,
        }


def generators(draws: int, seed: int = 0) -> list[np.random.Generator]:
    """A random generator for each draw."""
    return [np.random.default_rng((seed, draw)) for draw in range(draws)]


def partners(score: np.ndarray, there: np.ndarray, rng: np.random.Generator, block: int = BLOCK) -> np.ndarray:
    """For every detection another one with a similar score that is present at the same stages.

    Args:
        score: ``(D,)`` of the last stage.
        there: ``(E, D)`` bool, whether each earlier stage has the detection.
        rng: of the draw.
        block: number of neighbours by score that are exchanged with each other, in random order.

    Returns:
        ``(D,)`` a permutation.
    """
    pattern = np.packbits(there, axis=0).astype(np.int64) if len(there) else np.zeros((1, len(score)), np.int64)
    order = np.lexsort((score, *pattern))
    change = (np.diff(pattern[:, order], axis=1) != 0).any(axis=0)
    start = np.concatenate(([True], change)) if len(order) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
    group = np.cumsum(start | ((np.arange(len(order)) - first) % block == 0))
    partner = np.empty(len(order), dtype=np.int64)
    partner[order] = order[np.lexsort((rng.random(len(order)), group))]
    return partner
