"""The pixels of images given as paths, PIL images, arrays or tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image
from torch import Tensor

from .images import read_image, to_eight_bits

ImageLike = str | os.PathLike | Image.Image | np.ndarray | Tensor
COLORS = ("BGR", "RGB")


def is_single_image(images: object) -> bool:
    """Whether the argument is one image rather than a batch.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return True
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim != 4
    if isinstance(images, Sequence):
        return False
    raise TypeError(f"an image is a path, a PIL image, an array or a tensor, or a sequence of them, not {type(images)}")


def as_pixels(image: ImageLike, image_format: str = "RGB", color: str | None = None) -> np.ndarray:
    """Read or convert an image as 8-bit colour.

    Grey is repeated over the channels, the upper 8 of 16 bits are kept, and transparency is dropped (the pixels below
    it become visible), as in :func:`~sqr.data.read_image`.

    Args:
        image: a path; a PIL image of any mode; a numpy array ``(height, width)`` or ``(height, width, C)``, uint8 or
            uint16, or a tensor ``(C, height, width)``, uint8, with ``C`` 1, 3 or 4.
        image_format: channel order of the result, ``"BGR"`` or ``"RGB"``.
        color: channel order of an array (BGR when None) or a tensor (RGB when None).

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        OSError: a path that does not exist or is not an image.
        TypeError, ValueError: something that is not an image.
    """
    if isinstance(image, (str, os.PathLike)):
        if not Path(image).is_file():
            raise FileNotFoundError(f"no such image: {os.fspath(image)}")
        return read_image(os.fspath(image), image_format=image_format)
    if isinstance(image, Image.Image):
        return convert_PIL_to_numpy(to_eight_bits(_integers(image)), image_format)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or image.dtype != torch.uint8:
            raise ValueError(f"a tensor must be (3, height, width) uint8, not {tuple(image.shape)} {image.dtype}")
        pixels = image.permute(1, 2, 0).cpu().numpy()
        color = color or "RGB"
    elif isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
            raise ValueError(f"an array must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"an array must be (height, width, 3) uint8 or uint16, not {image.shape} {image.dtype}")
        pixels = image[:, :, None] if image.ndim == 2 else image
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        color = color or "BGR"
    else:
        raise TypeError(f"an image is a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    if 0 in pixels.shape:
        raise ValueError(f"the image has no pixels: {tuple(image.shape)}")
    if pixels.shape[2] == 1:
        return pixels.repeat(3, axis=2)
    return pixels[:, :, :3] if color == image_format else pixels[:, :, 2::-1]


def _integers(image: Image.Image) -> Image.Image:
    """Convert a PIL image of float or 32-bit pixels to the 8 or 16 bits that they represent; return others unchanged.

    PIL returns such images for grey pixels from various formats, and only their values indicate the range: up to 1
    (floats), 255 or 65535.

    Raises:
        ValueError: values outside these ranges.
    """
    if image.mode not in ("F", "I"):
        return image
    values = np.asarray(image, dtype=np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not 0 <= low <= high <= 65535:
        raise ValueError(
            f"a PIL image of mode {image.mode} has pixels from {low:g} to {high:g}, a range without a meaning; "
            "convert it to 8 bits"
        )
    if image.mode == "F" and high <= 1:
        values = values * 255
    if high <= 255:
        return Image.fromarray(values.round().astype(np.uint8))
    return Image.fromarray(values.round().astype(np.uint16))
