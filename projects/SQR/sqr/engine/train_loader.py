"""The training data loader: Detectron2's interface, and a stream that can start at any sample.

Detectron2's own loader is one endless stream seeded once; a resumed run starts it from the beginning. Here
sample ``p`` of a run (p = 0, 1, 2, ...; all processes together) is a pure function of (seed, p): its image
is entry ``p mod N`` of a permutation drawn for pass ``p div N``, its augmentation is seeded with (seed,
p). Process ``r`` of ``W`` takes positions r, r + W, ... as Detectron2's sampler does, so an iteration sees
the same images with any number of processes and any number of workers.
"""

from __future__ import annotations

import itertools
import logging
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..distributed import lost_worker, machine_failure
from ..errors import UserError, one_line
from .rng import epoch_permutation, seeded_sample

logger = logging.getLogger(__name__)

_MAX_SKIPS = 20  # how many consecutive images a mapper may skip (return None)


def build_train_loader(
    dataset: Sequence[dict] | Dataset,
    *,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    shuffle: bool = True,
    seed: int = 42,
    collate_fn: Callable[[list], Any] | None = None,
    repeat_threshold: float = 0.0,
    pin_memory: bool = False,
    prefetch_factor: int | None = None,
) -> TrainLoader:
    """Replaces ``detectron2.data.build_detection_train_loader`` in a config.

    Args:
        dataset: dataset dicts (``get_detection_dataset_dicts``) or a map-style dataset of them.
        mapper: dataset dict to model input, e.g. ``DatasetMapper``; None as a result means "take another
            image".
        total_batch_size: images per iteration, over all processes.
        aspect_ratio_grouping: only batch wide images with wide ones; needs ``width`` and ``height`` in the
            dicts.
        num_workers: loader processes of each training process; 0 loads in the training process itself.
        shuffle: draw a new order for each pass; False goes through the dataset in order.
        seed: of the order and of augmentations. The trainer sets it from ``train.seed``.
        collate_fn: list of mapped samples to a batch; the list itself by default.
        repeat_threshold: oversample images of categories that are in fewer than this share of the images, by the
            repeat factors of LVIS (Gupta et al., 2019); 0 draws all images equally often. Needs dataset dicts.
        pin_memory, prefetch_factor: of PyTorch's DataLoader. Workers live as long as the training, so there is no
            ``persistent_workers``.

    Raises:
        UserError: an empty dataset, or a batch that cannot be split evenly over the processes.
    """
    if len(dataset) == 0:
        raise UserError("the training dataset has no images")
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise UserError(
            f"dataloader.train.total_batch_size={total_batch_size} must be a positive multiple of the number "
            f"of processes ({world_size})"
        )
    wide = _wide_images(dataset) if aspect_ratio_grouping else None
    repeats = _repeat_factors(dataset, repeat_threshold) if repeat_threshold else None
    if repeats is not None and not shuffle:
        raise UserError("dataloader.train.repeat_threshold needs dataloader.train.shuffle=True")
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return TrainLoader(
        dataset, mapper, wide, total_batch_size, num_workers=num_workers, shuffle=shuffle, seed=seed,
        collate_fn=collate_fn, repeats=repeats, pin_memory=pin_memory, prefetch_factor=prefetch_factor,
    )  # fmt: skip


class TrainLoader:
    """An endless iterable of batches, starting at the sample set by :meth:`start_at`."""

    def __init__(
        self,
        dataset: Dataset,
        mapper: Callable[[dict], dict | None],
        wide: np.ndarray | None,
        total_batch_size: int,
        *,
        num_workers: int,
        shuffle: bool,
        seed: int,
        collate_fn: Callable[[list], Any] | None,
        repeats: np.ndarray | None = None,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.wide = wide
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.seed = seed
        self.collate_fn = collate_fn
        self.repeats = repeats
        self.pin_memory, self.prefetch_factor = pin_memory, prefetch_factor
        self.first_sample = 0

    def start_at(self, sample: int, *, seed: int) -> None:
        """Start the next iteration over the loader after ``sample`` samples of the run."""
        self.first_sample, self.seed = int(sample), int(seed)

    def __iter__(self) -> Iterator[Any]:
        world_size = comm.get_world_size()
        batches = PositionSampler(
            len(self.dataset),
            self.total_batch_size // world_size,
            seed=self.seed,
            shuffle=self.shuffle,
            first_sample=self.first_sample,
            wide=self.wide,
            repeats=self.repeats,
            rank=comm.get_rank(),
            world_size=world_size,
        )
        loader = DataLoader(
            SeededDataset(self.dataset, self.mapper, self.seed),
            batch_sampler=batches,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=self.prefetch_factor,
            collate_fn=_as_list,
            worker_init_fn=_outlive_stop_signals,
            # A separate generator: the default one would draw from the training process's stream.
            generator=torch.Generator().manual_seed(self.seed),
        )
        for batch in batches_of(loader):
            for sample in batch:
                if isinstance(sample, _Unreadable):
                    raise UserError(sample.message)
            yield batch if self.collate_fn is None else self.collate_fn(batch)


def batches_of(loader: Iterable[list]) -> Iterator[list]:
    """The batches of a loader; the death of one of its processes is a UserError."""
    try:
        yield from loader
    except (RuntimeError, ConnectionError, EOFError) as error:
        failure = machine_failure(error) if isinstance(error, RuntimeError) else lost_worker(one_line(error))
        if failure is None:
            raise
        raise failure from error


class ForeignLoader:
    """Any other endless iterable of batches, such as that of Detectron2's ``build_detection_train_loader``.

    It cannot start at a given sample: a resumed training has exact weights and optimizer state, but sees other images.
    """

    def __init__(self, loader: Iterable, *, total_batch_size: int):
        self.loader = loader
        self.dataset = getattr(loader, "dataset", None)
        self.total_batch_size = total_batch_size

    def start_at(self, sample: int, *, seed: int) -> None:
        """Warn that the position is not restored."""
        if sample:
            logger.warning(
                "dataloader.train is a %s, which cannot be entered at sample %d: the resumed run draws other images "
                "than an uninterrupted one. sqr.engine.build_train_loader resumes exactly",
                type(self.loader).__name__, sample,
            )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader
        raise UserError("dataloader.train ended; a training loader is endless (see Detectron2's TrainingSampler)")


class PositionSampler(Sampler):
    """Endless batches of ``(dataset index, position in the run)`` pairs of one process.

    Args:
        size: number of images in the dataset.
        batch_size: images per iteration in this process.
        seed, shuffle: of the order of each pass.
        first_sample: number of samples of the run (all processes) already used.
        wide: ``(size,)`` bool to batch wide and tall images separately, or None.
        repeats: ``(size,)`` repeat factors, or None to draw all images equally often.
        rank, world_size: determine the positions of this process.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        first_sample: int = 0,
        wide: np.ndarray | None = None,
        repeats: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.first_sample, self.wide, self.repeats = first_sample, wide, repeats
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.wide is None:
            samples = self._samples(self.first_sample + self.rank)
            while True:
                yield list(itertools.islice(samples, self.batch_size))
        # Which images wait in a bucket depends on all earlier ones, so the (cheap) grouping of indices is
        # replayed.
        used = 0
        for batch in self._grouped(self._samples(self.rank)):
            if used >= self.first_sample:
                yield batch
            used += self.batch_size * self.world_size

    def _samples(self, first: int) -> Iterator[tuple[int, int]]:
        epoch, order = -1, None
        for position in itertools.count(first, self.world_size):
            if position // self.size != epoch:
                epoch = position // self.size
                order = self._order(epoch) if self.shuffle else None
            index = position % self.size
            yield (order[index] if order else index), position

    def _order(self, epoch: int) -> list[int]:
        """Dataset indices of one pass; with repeat factors image ``i`` occurs ``size * share_i`` times, rounded
        up or down."""
        permutation = epoch_permutation(self.seed, epoch, self.size)
        if self.repeats is None:
            return permutation.tolist()
        # Systematic sampling in a random order of the images, then shuffled.
        ends = np.cumsum(self.repeats[permutation]) * (self.size / self.repeats.sum())
        start = epoch * 0.6180339887 % 1  # a different offset in every pass
        drawn = permutation[np.minimum(np.searchsorted(ends, np.arange(self.size) + start, "right"), self.size - 1)]
        return drawn[epoch_permutation(self.seed + 1, epoch, self.size)].tolist()

    def _grouped(self, samples: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        buckets: tuple[list, list] = ([], [])
        for index, position in samples:
            bucket = buckets[int(self.wide[index])]
            bucket.append((index, position))
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()


class SeededDataset(Dataset):
    """Maps ``(index, position)`` to the mapped sample, all randomness seeded with (seed, position).

    An unreadable image is returned as a marker that :class:`TrainLoader` raises in the training process: an
    exception in a worker would reach the user as a long traceback.
    """

    def __init__(self, dataset: Dataset, mapper: Callable[[dict], dict | None], seed: int):
        self.dataset, self.mapper, self.seed = dataset, mapper, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, position = key
        with seeded_sample(self.seed, position):
            for _ in range(_MAX_SKIPS):
                sample = self.dataset[index]
                try:
                    mapped = self.mapper(sample)
                except UserError as error:  # complete message from sqr.data's mapper
                    return _Unreadable(one_line(error))
                # A missing file, one that PIL cannot read, a truncated PNG, a size that is not the
                # annotated one.
                except (OSError, SyntaxError, SizeMismatchError) as error:
                    name = sample.get("file_name", f"image {index}")
                    return _Unreadable(f"cannot load the training image {name}: {one_line(error)}")
                if mapped is not None:
                    return mapped
                index = random.randrange(len(self.dataset))
        return _Unreadable(f"the mapper refused {_MAX_SKIPS} images in a row (it returned None)")


@dataclass
class _Unreadable:
    message: str


def _as_list(samples: list) -> list:
    return samples


def _outlive_stop_signals(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group, but the training process, which decides
    # when to end, still needs batches. An orphaned worker ends by itself after a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(20))


def _repeat_factors(dataset: Sequence[dict] | Dataset, threshold: float) -> np.ndarray:
    if not 0 < threshold <= 1:
        raise UserError(f"dataloader.train.repeat_threshold={threshold}: a share of the images, from 0 to 1")
    try:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(list(dataset), threshold)
    except (KeyError, TypeError) as error:
        raise UserError(
            "dataloader.train.repeat_threshold needs dataset dicts with annotations; set it to 0"
        ) from error
    return factors.numpy().astype(float)


def _wide_images(dataset: Sequence[dict] | Dataset) -> np.ndarray:
    try:
        return np.array([dataset[i]["width"] > dataset[i]["height"] for i in range(len(dataset))], dtype=bool)
    except KeyError as error:
        raise UserError(
            f"aspect_ratio_grouping needs {error} in every dataset dict; set "
            "dataloader.train.aspect_ratio_grouping=False"
        ) from error
