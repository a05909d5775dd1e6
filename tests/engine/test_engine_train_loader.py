"""The sample stream: every image once a pass, the same for any number of processes, entered anywhere."""

import itertools
import random

import numpy as np
import pytest
import torch

from engine_toys import BrokenMapper, ToyMapper, toy_dicts
from sqr.engine import build_train_loader
from sqr.engine.train_loader import PositionSampler
from sqr.errors import UserError


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def flat(batches):
    return [sample for batch in batches for sample in batch]


def ids(batches):
    return [[sample["image_id"] for sample in batch] for batch in batches]


def test_each_pass_holds_every_image_once_in_another_order():
    batches = ids(take(build_train_loader(toy_dicts(12), mapper=ToyMapper(), total_batch_size=4), 6))
    first, second = flat(batches[:3]), flat(batches[3:])
    assert sorted(first) == sorted(second) == list(range(100, 112))
    assert first != second


def test_unshuffled_goes_in_order():
    loader = build_train_loader(toy_dicts(3), mapper=ToyMapper(), total_batch_size=2, shuffle=False)
    assert ids(take(loader, 3)) == [[100, 101], [102, 100], [101, 102]]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_gives_the_same_samples(grouping, workers):
    def loader():
        return build_train_loader(
            toy_dicts(),
            mapper=ToyMapper(),
            total_batch_size=3,
            aspect_ratio_grouping=grouping,
            num_workers=workers,
        )

    whole, late = take(loader(), 9), loader()
    late.start_at(4 * 3, seed=42)
    for a, b in zip(flat(whole[4:]), flat(take(late, 5)), strict=True):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])


def test_an_iteration_sees_the_same_images_with_any_number_of_processes():
    def stream(rank, world_size, first=0):
        sampler = PositionSampler(13, 4 // world_size, seed=1, rank=rank, world_size=world_size, first_sample=first)
        return list(itertools.islice(sampler, 10))

    one = stream(0, 1)
    for split in zip(one, stream(0, 2), stream(1, 2), strict=True):
        assert sorted(split[0]) == sorted(split[1] + split[2])
    assert stream(1, 2, first=12) == stream(1, 2)[3:] + stream(1, 2, first=40)[:3]


def test_grouped_batches_hold_one_orientation():
    loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=3, aspect_ratio_grouping=True)
    for batch in take(loader, 20):
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1


def test_loading_leaves_the_process_random_states_alone():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    take(build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=3), 4)
    assert draw() == expected


def test_augmentation_differs_between_samples_and_passes():
    loader = build_train_loader(toy_dicts(4)[:1] * 4, mapper=ToyMapper(), total_batch_size=4)
    values = {round(sample["image"].flatten()[0].item(), 6) for sample in flat(take(loader, 3))}
    assert len(values) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(workers):
    loader = build_train_loader(toy_dicts(), mapper=BrokenMapper(), total_batch_size=4, num_workers=workers)
    with pytest.raises(UserError, match=r"cannot load the training image toy_4\.png: cannot identify image file"):
        take(loader, 4)


class RefusingMapper(ToyMapper):
    def __init__(self, *refused):
        self.refused = refused

    def __call__(self, sample):
        return None if sample["image_id"] in self.refused or "all" in self.refused else super().__call__(sample)


def test_refused_images_are_replaced_the_same_way_each_time():
    loader = build_train_loader(toy_dicts(), mapper=RefusingMapper(103, 104), total_batch_size=4)
    first = ids(take(loader, 6))
    assert first == ids(take(loader, 6))
    assert not {103, 104} & set(flat(first))
    with pytest.raises(UserError, match="the mapper refused 20 images in a row"):
        take(build_train_loader(toy_dicts(), mapper=RefusingMapper("all"), total_batch_size=4), 1)


def test_errors_name_the_value():
    with pytest.raises(UserError, match="no images"):
        build_train_loader([], mapper=ToyMapper(), total_batch_size=4)
    with pytest.raises(UserError, match="total_batch_size=0 must be a positive multiple"):
        build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=0)
    with pytest.raises(UserError, match="aspect_ratio_grouping needs 'width'"):
        build_train_loader([{"image_id": 1}], mapper=ToyMapper(), total_batch_size=1, aspect_ratio_grouping=True)


def test_rare_categories_are_repeated_and_resume_exactly():
    dicts = toy_dicts(10)
    for number, sample in enumerate(dicts):
        sample["annotations"] = [{"category_id": int(number == 3)}]

    def loader():
        return build_train_loader(dicts, mapper=ToyMapper(), total_batch_size=5, repeat_threshold=0.4)

    batches = ids(take(loader(), 40))  # 20 passes
    counts = {n: flat(batches).count(n) for n in range(100, 110)}
    # Category 1 is in a tenth of the images: factor sqrt(0.4 / 0.1) = 2 against 1.
    assert counts[103] == pytest.approx(200 * 2 / 11, abs=4)
    assert all(counts[n] == pytest.approx(200 / 11, abs=4) for n in counts if n != 103)
    late = loader()
    late.start_at(5 * 7, seed=42)
    assert ids(take(late, 5)) == batches[7:12]
    with pytest.raises(UserError, match="repeat_threshold=3: a share"):
        build_train_loader(dicts, mapper=ToyMapper(), total_batch_size=5, repeat_threshold=3)
    with pytest.raises(UserError, match="needs dataset dicts with annotations"):
        build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=5, repeat_threshold=0.1)
