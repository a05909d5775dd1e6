"""DETR's training augmentation as Detectron2 augmentations, for ``DatasetMapper(augmentations=...)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import transforms as T

# DETR (Carion et al., 2020, appendix A.4) at its largest training size, 800: before the crop the shortest
# edge is resized to one of 400, 500, 600, then a window with sides of 384 to 600 is cut out.
_CROP_RESIZE = (0.5, 0.625, 0.75)
_CROP_SIDES = (0.48, 0.75)
_LONGEST_BEFORE_CROP = 20  # times the window, so that a narrow strip is not enlarged to gigabytes


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resizing with at least one pixel per side: a strip of 10 x 4000 remains an image."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
        return transform


class RandomEither(T.Augmentation):
    """Applies one of two lists of augmentations, chosen at random for every image.

    ``T.RandomApply`` applies one augmentation or none; DETR needs "this list or that one".
    """

    def __init__(
        self,
        *,
        first: Sequence[T.Augmentation],
        second: Sequence[T.Augmentation],
        second_prob: float = 0.5,
    ):
        """
        Args:
            first, second: the two lists.
            second_prob: probability of ``second``, in [0, 1].

        Raises:
            ValueError: ``second_prob`` is not a probability.
        """
        super().__init__()
        if not 0 <= second_prob <= 1:
            raise ValueError(f"second_prob must lie in [0, 1], got {second_prob}")
        self.first = T.AugmentationList(list(first))
        self.second = T.AugmentationList(list(second))
        self.second_prob = second_prob

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        take_second = self._rand_range() < self.second_prob
        return (self.second if take_second else self.first)(aug_input)


class PixelTransforms(T.Augmentation):
    """Applies transforms in the style of Albumentations that change pixels without moving them.

    A transform is called as ``transform(image=...)`` and returns ``{"image": ...}``. Albumentations itself is not
    required or imported. Its generator is seeded from NumPy's, so that a run can be repeated and resumed.
    """

    def __init__(self, transforms: Sequence[Callable[..., dict]]):
        """
        Args:
            transforms: applied in this order.

        Raises:
            ValueError: one of them also moves boxes, which would not be updated.
        """
        super().__init__()
        self.transforms = list(transforms)
        for transform in self.transforms:
            if "bboxes" in getattr(transform, "targets", ()) or hasattr(transform, "transforms"):
                raise ValueError(
                    f"{type(transform).__name__} may move pixels, and boxes would not follow: pixel_transforms takes "
                    "transforms of the image only, each one by itself"
                )

    def get_transform(self, image: np.ndarray) -> T.Transform:
        for transform in self.transforms:
            if hasattr(transform, "set_random_seed"):
                transform.set_random_seed(int(np.random.randint(2**31)))
        return _PixelTransform(self.transforms)


class _PixelTransform(T.Transform):
    def __init__(self, transforms: Sequence[Callable[..., dict]]):
        super().__init__()
        self.transforms = transforms

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        for transform in self.transforms:
            img = transform(image=img)["image"]
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords


def training_augmentations(
    *,
    min_size: int | Sequence[int] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    max_size: int = 1333,
    flip_prob: float = 0.5,
    crop_prob: float = 0.5,
    color_jitter: float = 0.0,
    crop_resize: Sequence[int] | None = None,
    crop_sides: Sequence[int] | None = None,
    crop_max_size: int | None = None,
    pixel_transforms: Sequence[Callable[..., dict]] = (),
) -> list[T.Augmentation]:
    """DETR's recipe: a flip, then resize, or resize, crop and resize; optionally colour jitter.

    Boxes that a crop empties are filtered by ``DatasetMapper``.

    Args:
        min_size: lengths of the shortest edge in pixels, one of which is drawn for every image.
        max_size: longest allowed length of the longest edge, in pixels.
        flip_prob: probability of a horizontal flip.
        crop_prob: probability of the branch with the crop; 0 disables it.
        color_jitter: brightness, contrast and saturation are each scaled by a factor from ``1 -
            color_jitter`` to ``1 + color_jitter``; 0 leaves the colours unchanged. Assumes RGB. DETR has none;
            small datasets benefit from it.
        crop_resize: shortest edges before the crop; None takes DETR's proportions of the largest
            ``min_size``, which are (400, 500, 600) for 800.
        crop_sides: shortest and longest side of the window, in pixels; None likewise scales DETR's (384, 600) for 800.
        crop_max_size: longest allowed length of the longest edge before the crop; None, as DETR, limits only strips of
            more than 20 to 1.
        pixel_transforms: for :class:`PixelTransforms`, at the end.

    Raises:
        ValueError: a size, probability or factor is out of range.
    """
    sizes = _sizes("min_size", min_size)
    for key, value in (("flip_prob", flip_prob), ("crop_prob", crop_prob)):
        if not 0 <= value <= 1:
            raise ValueError(f"{key} must lie in [0, 1], got {value}")
    if not 0 <= color_jitter < 1:
        raise ValueError(f"color_jitter must lie in [0, 1), got {color_jitter}")
    if max_size < max(sizes):
        raise ValueError(
            f"max_size {max_size} is smaller than the largest min_size {max(sizes)}: raise data.max_size or lower "
            "data.min_size_train"
        )
    if crop_resize is None:
        crop_resize = [round(r * max(sizes)) for r in _CROP_RESIZE]
    if crop_sides is None:
        crop_sides = [round(r * max(sizes)) for r in _CROP_SIDES]

    def resize() -> T.Augmentation:
        return ResizeShortestEdge(sizes, max_size, sample_style="choice")

    augmentations = [T.RandomFlip(prob=flip_prob)] if flip_prob > 0 else []
    if crop_prob > 0:
        longest = crop_max_size or _LONGEST_BEFORE_CROP * max(_sizes("crop_sides", crop_sides))
        before = ResizeShortestEdge(_sizes("crop_resize", crop_resize), longest, sample_style="choice")
        crop = T.RandomCrop("absolute_range", tuple(_sizes("crop_sides", crop_sides)))
        augmentations.append(RandomEither(first=[resize()], second=[before, crop, resize()], second_prob=crop_prob))
    else:
        augmentations.append(resize())
    if color_jitter > 0:
        low, high = 1 - color_jitter, 1 + color_jitter
        augmentations += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            T.RandomSaturation(low, high),
        ]
    return [*augmentations, PixelTransforms(pixel_transforms)] if pixel_transforms else augmentations


def inference_augmentations(*, min_size: int = 800, max_size: int = 1333) -> list[T.Augmentation]:
    """Resize the shortest edge to ``min_size`` and keep the longest at or below ``max_size``, in pixels.

    Raises:
        ValueError: a size is out of range.
    """
    (size,) = _sizes("min_size", [min_size])
    return [ResizeShortestEdge([size, size], max_size)]


def _sizes(key: str, value: int | Sequence[int]) -> list[int]:
    sizes = [value] if isinstance(value, (int, np.integer)) else list(value)
    if not sizes or any(int(s) != s or s < 1 for s in sizes):
        raise ValueError(f"{key} must be one or more positive numbers of pixels, got {value}")
    return [int(s) for s in sizes]
