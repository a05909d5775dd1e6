"""DETR's augmentation: its ranges, its either/or, and boxes that stay with their pixels."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from sqr.data import RandomEither, inference_augmentations, training_augmentations

DETR_SIZES = list(range(480, 801, 32))


@pytest.fixture(autouse=True)
def seeded():
    """Draws are fixed for each test, and the generators are left as found."""
    numpy_state, torch_state = np.random.get_state(), torch.random.get_rng_state()
    np.random.seed(0)
    yield
    np.random.set_state(numpy_state)
    torch.random.set_rng_state(torch_state)


def apply(augmentations, image, boxes=None):
    data = T.AugInput(image, boxes=boxes)
    transforms = T.AugmentationList(augmentations)(data)
    return data, transforms.transforms


def nested(transforms):
    for t in transforms:
        if isinstance(t, T.TransformList):
            yield from nested(t.transforms)
        else:
            yield t


def test_sizes_and_branches_are_those_of_detr():
    augmentations = training_augmentations()
    image = np.zeros((96, 128, 3), np.uint8)  # all sizes are absolute
    crops, flips, shortest, windows, before = 0, 0, set(), set(), set()
    for _ in range(160):
        data, transforms = apply(augmentations, image)
        steps = list(nested(transforms))
        resizes = [t for t in steps if isinstance(t, T.ResizeTransform)]
        window = [t for t in steps if isinstance(t, T.CropTransform)]
        flips += any(isinstance(t, T.HFlipTransform) for t in steps)
        height, width = data.image.shape[:2]
        assert max(height, width) <= 1333 and (min(height, width) in DETR_SIZES or max(height, width) == 1333)
        shortest.add(min(height, width))
        if window:
            crops += 1
            before.add(min(resizes[0].new_h, resizes[0].new_w))
            windows |= {window[0].w, window[0].h}
            assert len(resizes) == 2
        else:
            assert len(resizes) == 1
    assert 60 < crops < 100 and 60 < flips < 100
    assert before == {400, 500, 600}
    assert min(windows) >= 384 and max(windows) <= 600 and min(windows) < 410 and max(windows) > 470
    assert set(DETR_SIZES) <= shortest


def test_crop_sizes_follow_the_training_size():
    (either,) = training_augmentations(min_size=[192, 256], max_size=320, flip_prob=0)
    before, crop, _ = either.second.augs
    assert before.short_edge_length == [128, 160, 192] and crop.crop_size == (123, 192)
    assert before.max_size == 20 * 192
    (either,) = training_augmentations(min_size=[192, 256], max_size=320, flip_prob=0, crop_max_size=300)
    assert either.second.augs[0].max_size == 300


@pytest.mark.parametrize("sizes", [{}, {"min_size": [96, 128], "max_size": 160}])
@pytest.mark.parametrize("shape", [(120, 128), (128, 77), (40, 300)])
def test_boxes_stay_with_their_pixels(sizes, shape):
    """A bright rectangle on black is found where its transformed box is, whatever was drawn."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    box = np.array([width // 4, height // 5, width // 4 + 24, height // 5 + 18], np.float32)
    image[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
    augmentations = training_augmentations(**sizes)
    seen = 0
    for _ in range(25):
        data, _ = apply(augmentations, image, boxes=box[None].copy())
        new_height, new_width = data.image.shape[:2]
        found = data.boxes[0].clip(0, [new_width, new_height, new_width, new_height])
        bright = data.image[..., 0] > 127
        if (found[2:] - found[:2]).min() <= 2:
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        pixels = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(found - pixels).max() <= 1.0
        seen += 1
    assert seen >= 8


def test_either_list_is_drawn_for_each_image():
    either = RandomEither(first=[T.Resize((10, 10))], second=[T.Resize((20, 20))], second_prob=0.25)
    sides = [apply([either], np.zeros((5, 5, 3), np.uint8))[0].image.shape[0] for _ in range(200)]
    assert 30 < sides.count(20) < 70 and sides.count(10) + sides.count(20) == 200
    always = RandomEither(first=[T.Resize((10, 10))], second=[T.Resize((20, 20))], second_prob=1.0)
    assert {apply([always], np.zeros((5, 5, 3), np.uint8))[0].image.shape[0] for _ in range(20)} == {20}


def test_the_draws_follow_detectron2s_seed():
    image, augmentations = (
        np.random.randint(0, 255, (60, 90, 3), np.uint8),
        training_augmentations(color_jitter=0.3),
    )
    results = []
    for seed in (5, 5, 6):
        seed_all_rng(seed)
        results.append([apply(augmentations, image)[0].image for _ in range(3)])
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(results[0], results[2], strict=True))


def test_color_jitter_changes_colours_only():
    image = np.random.randint(40, 200, (64, 64, 3), np.uint8)
    boxes = np.array([[3, 4, 20, 30]], np.float32)
    plain = training_augmentations(min_size=64, max_size=64, flip_prob=0, crop_prob=0)
    jitter = training_augmentations(min_size=64, max_size=64, flip_prob=0, crop_prob=0, color_jitter=0.3)
    assert np.array_equal(apply(plain, image)[0].image, image)
    data, _ = apply(jitter, image, boxes)
    assert data.image.dtype == np.uint8 and (data.image != image).any() and np.array_equal(data.boxes, boxes)


def test_inference_resizes_only():
    data, _ = apply(inference_augmentations(), np.zeros((480, 640, 3), np.uint8))
    assert data.image.shape == (800, 1067, 3)
    data, _ = apply(inference_augmentations(min_size=128, max_size=128), np.zeros((80, 128, 3), np.uint8))
    assert data.image.shape == (80, 128, 3)


@pytest.fixture
def record(tmp_path):
    """A 200x100 image whose left half is red and right half blue, with an object in each and a crowd."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100, 0] = 255
    pixels[:, 100:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    boxes = [[5, 5, 20, 20], [170, 60, 25, 30], [0, 0, 200, 100]]
    objects = [
        {"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": int(i == 2)}
        for i, b in enumerate(boxes)
    ]
    path = str(tmp_path / "image.png")
    return {"file_name": path, "height": 100, "width": 200, "image_id": 1, "annotations": objects}


def mapper(augmentations):
    return DatasetMapper(is_train=True, augmentations=augmentations, image_format="RGB")


def test_mapper_reads_rgb_and_drops_crowds(record):
    result = mapper(training_augmentations(min_size=100, max_size=200, flip_prob=0, crop_prob=0))(record)
    assert result["image"][:, 50, 10].tolist() == [255, 0, 0]
    assert result["instances"].gt_classes.tolist() == [0, 1]


def test_boxes_emptied_by_a_crop_are_filtered(record):
    augmentations = training_augmentations(
        min_size=100, max_size=400, flip_prob=0, crop_prob=1, crop_resize=[100], crop_sides=[60, 60]
    )
    counts = set()
    for _ in range(60):
        instances = mapper(augmentations)(record)["instances"]
        assert instances.gt_boxes.nonempty().all()
        counts.add(len(instances))
    assert counts == {0, 1}  # a window of 60 px never reaches both


class Darken:
    """A transform in the manner of Albumentations."""

    targets = ("image",)

    def set_random_seed(self, seed):
        self.factor = 0.2 + 0.5 * np.random.default_rng(seed).random()

    def __call__(self, *, image):
        return {"image": (image * self.factor).astype(np.uint8)}


def test_pixel_transforms_move_no_box_and_follow_the_seed(record):
    plain, darkened = (
        training_augmentations(min_size=100, max_size=400, flip_prob=0, crop_prob=0, pixel_transforms=transforms)
        for transforms in ((), [Darken()])
    )
    before = mapper(plain)(record)
    images = []
    for seed in (1, 1, 2):
        seed_all_rng(seed)
        result = mapper(darkened)(record)
        assert torch.equal(result["instances"].gt_boxes.tensor, before["instances"].gt_boxes.tensor)
        images.append(result["image"])
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert images[0].float().mean() < before["image"].float().mean()


def test_a_transform_that_moves_boxes_is_refused():
    class Turn(Darken):
        targets = ("image", "bboxes")

    with pytest.raises(ValueError, match="Turn may move pixels"):
        training_augmentations(min_size=100, pixel_transforms=[Turn()])


def test_albumentations_itself(record):
    albumentations = pytest.importorskip("albumentations", reason="needs albumentations, which is optional")
    augmentations = training_augmentations(
        min_size=100, max_size=400, flip_prob=0, crop_prob=0,
        pixel_transforms=[albumentations.GaussNoise(p=1.0), albumentations.MotionBlur(p=1.0)],
    )  # fmt: skip
    images = []
    for _ in range(2):
        seed_all_rng(3)
        images.append(mapper(augmentations)(record)["image"])
    assert torch.equal(*images)
    with pytest.raises(ValueError, match="HorizontalFlip may move pixels"):
        training_augmentations(min_size=100, pixel_transforms=[albumentations.HorizontalFlip()])


@pytest.mark.parametrize("shape", [(10, 4000, 3), (4000, 10, 3), (1, 4000, 3)])
def test_a_strip_keeps_at_least_one_pixel_a_side(shape):
    image = np.zeros(shape, dtype=np.uint8)
    for augmentations in (inference_augmentations(min_size=96, max_size=160), training_augmentations(
        min_size=[96], max_size=160, crop_prob=1
    )):  # fmt: skip
        augmented = T.AugInput(image)
        T.AugmentationList(augmentations)(augmented)
        assert min(augmented.image.shape[:2]) >= 1 and max(augmented.image.shape[:2]) <= 160


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_size": []}, "min_size"),
        ({"min_size": [0, 64]}, "min_size"),
        ({"min_size": [800], "max_size": 320}, "max_size 320 is smaller than the largest min_size 800"),
        ({"flip_prob": 1.5}, "flip_prob"),
        ({"crop_prob": -0.1}, "crop_prob"),
        ({"color_jitter": 1.0}, "color_jitter"),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_augmentations(**arguments)
