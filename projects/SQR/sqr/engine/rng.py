"""Random numbers as a function of (seed, position): what makes a resumed run the same run.

Three streams are drawn from, and none has a state that could be lost:

* an image's augmentation is seeded with (seed, position of the sample in the run), in whatever process it
  runs;
* a training step (dropout and the like) is seeded with (seed, iteration, rank) before it starts, so that
  whatever ran between two steps (an evaluation, a checkpoint) does not reach it;
* the groups that a step recollects, where its plan draws them, follow from (seed, iteration): every process draws
  the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_STEP, _SAMPLE, _EPOCH, _PLAN = 1, 2, 3, 4  # streams of the same seed that must not coincide


def _derive(seed: int, stream: int, *numbers: int) -> int:
    """A 63-bit seed from numbers, well mixed: neighbours give unrelated streams."""
    low, high = np.random.SeedSequence([seed, stream, *numbers]).generate_state(2, np.uint32)
    return (int(high) & 0x7FFFFFFF) << 32 | int(low)


def seed_process(seed: int) -> None:
    """Seed python, numpy and torch (all devices): for building the model, the same on every process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed python, numpy and torch (all devices) for one training step of one process."""
    seed_process(_derive(seed, _STEP, iteration, rank))


def plan_draw(seed: int, iteration: int) -> int:
    """Which draw of a sampled recollection plan a training step runs, the same on every process."""
    return _derive(seed, _PLAN, iteration)


def epoch_permutation(seed: int, epoch: int, size: int) -> torch.Tensor:
    """The order of a pass over the data: ``(size,)`` int64, the same on every process."""
    generator = torch.Generator().manual_seed(_derive(seed, _EPOCH, epoch))
    return torch.randperm(size, generator=generator)


@contextmanager
def seeded_sample(seed: int, position: int) -> Iterator[None]:
    """Seed python, numpy and torch's CPU generator for one sample; put their states back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    value = _derive(seed, _SAMPLE, position)
    random.seed(value)
    np.random.seed(value % 2**32)
    # Not torch.manual_seed: that would reseed the accelerators too, and they are not put back.
    torch.default_generator.manual_seed(value)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
