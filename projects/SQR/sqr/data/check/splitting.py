"""Makes a validation split of a dataset that has only one: by image, seeded, near-duplicates together."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..records import ImageRecord
from .inspection import Inspection
from .probe import ImageFacts

# Copies at half the size and JPEG quality 50 differed in at most 6 of 64 bits, 1 of 31,125 pairs of different photos
# in fewer than 8. Of 8 bands with 8 bits each, two fingerprints that differ in fewer than 8 bits share one.
_BANDS = 8
_DRAWS = 20  # draws, of which the one that keeps most classes on both sides is used

_Pair = tuple[ImageRecord, ImageFacts]


def split_inspection(inspection: Inspection, share: float, *, seed: int = 0) -> Inspection:
    """Divide the only split among ``train`` and ``val``; a ``test`` split stays as it is.

    Images with the same content and near-duplicates (frames of a video, rescaled or recompressed copies) go to the same
    side, so that the validation images are new to the model.

    Args:
        inspection: with decoded images.
        share: of the images used for validation, between 0 and 1.
        seed: of the draw.

    Raises:
        ValueError: there are both splits already, or the images cannot be divided.
    """
    names = [name for name in inspection.splits if name != "test"]
    if len(names) != 1:
        raise ValueError(f"--split divides a single split, but there are {', '.join(names) or 'none'}")
    usable = [pair for pair in inspection.images(names[0]) if not pair[1].error]
    groups = _groups(usable)
    target = max(1, round(share * len(usable)))
    rng = random.Random(seed)
    draws = [_draw(groups, target, rng) for _ in range(_DRAWS)] if len(groups) > 1 else []
    train, val = max(draws, key=_classes_on_both_sides, default=([], []))
    if not all(any(not o.crowd for image, _ in side for o in image.objects) for side in (train, val)):
        raise ValueError(
            f"the {len(usable)} images of split {names[0]!r} cannot be divided: {len(groups)} groups of images that "
            "are not alike, too few of them with boxes"
        )
    whole = inspection.splits[names[0]]
    broken = [pair for pair in inspection.images(names[0]) if pair[1].error]
    sides = {
        "train": sorted(train + broken, key=lambda p: p[0].file_name),
        "val": sorted(val, key=lambda p: p[0].file_name),
    }
    splits = {"train": replace(whole, name="train", images=[image for image, _ in sides["train"]]),
              "val": replace(whole, name="val", images=[image for image, _ in sides["val"]], dropped_images=[],
                             dropped_objects=0)}  # fmt: skip
    facts = {name: [fact for _, fact in side] for name, side in sides.items()}
    if "test" in inspection.splits:
        splits["test"], facts["test"] = inspection.splits["test"], inspection.facts["test"]
    return replace(inspection, splits=splits, facts=facts)


def _draw(groups: Sequence[list[_Pair]], target: int, rng: random.Random) -> tuple[list[_Pair], list[_Pair]]:
    """Assign groups in random order; those that fit are used for validation."""
    train, val = [], []
    for group in rng.sample(groups, len(groups)):
        side = val if len(val) + len(group) <= target else train
        side += group
    return train, val


def _classes_on_both_sides(sides: tuple[list[_Pair], list[_Pair]]) -> tuple[int, int]:
    train, val = ({o.category for image, _ in side for o in image.objects if not o.crowd} for side in sides)
    return len(train), len(val)


def _groups(pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    """Images that are alike, directly or through others, in the order of their first member."""
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    buckets: dict[tuple, list[int]] = defaultdict(list)
    for i, (image, fact) in enumerate(pairs):
        for key in (("path", image.path), ("digest", fact.digest)):
            for j in buckets[key][:1] if key[1] else ():
                parent[root(i)] = root(j)
            buckets[key].append(i)
        if fact.fingerprint is None:
            continue
        for band in range(_BANDS):
            bucket = buckets[band, fact.fingerprint >> 8 * band & 0xFF]
            for j in bucket:
                if (pairs[j][1].fingerprint ^ fact.fingerprint).bit_count() < _BANDS:
                    parent[root(i)] = root(j)
            bucket.append(i)
    groups: dict[int, list[_Pair]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        groups[root(i)].append(pair)
    return list(groups.values())
