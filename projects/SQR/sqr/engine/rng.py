"""Random numbers as a function of (seed, position), which makes resumed runs exact.

There are three streams, none of which has a state that could be lost:

* an image's augmentation is seeded with (seed, position of the sample in the run), independent of the process it
  runs in;
* a training step (dropout etc.) is seeded with (seed, iteration, rank) before it starts, so that
  anything between two steps (an evaluation, a checkpoint) does not affect it;
* the draw of a sampled plan depends on (seed, iteration): every process draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_STEP, _SAMPLE, _EPOCH, _PLAN = 1, 2, 3, 4  # distinguish streams of the same seed


def _derive(seed: int, stream: int, *numbers: int) -> int:
    """A well-mixed 63-bit seed from numbers: similar inputs give unrelated streams."""
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
    """The number of the draw of a sampled plan in a training step, the same on every process."""
    return _derive(seed, _PLAN, iteration)


def epoch_permutation(seed: int, epoch: int, size: int) -> torch.Tensor:
    """The order of a pass over the data: ``(size,)`` int64, the same on every process."""
    generator = torch.Generator().manual_seed(_derive(seed, _EPOCH, epoch))
    return torch.randperm(size, generator=generator)


@contextmanager
def seeded_sample(seed: int, position: int) -> Iterator[None]:
    """Seed python, numpy and torch's CPU generator for one sample; restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    value = _derive(seed, _SAMPLE, position)
    random.seed(value)
    np.random.seed(value % 2**32)
    # Not torch.manual_seed: that would also reseed the accelerators, whose states are not restored.
    torch.default_generator.manual_seed(value)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
