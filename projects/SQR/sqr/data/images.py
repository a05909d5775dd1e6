"""Reading images of all kinds: grey, RGBA, palette, 16-bit, rotated by EXIF, broken."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError, one_line

_ORIENTATION = 274  # the EXIF tag
_TRANSPOSED = (5, 6, 7, 8)  # its values that swap width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class UnreadableImageError(OSError, UserError):
    """An image that cannot be used; the one-line message names the file.

    A ``DataLoader`` raises a worker's exception again with its traceback as the text; the last line, which is the
    message, is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().rpartition("\n")[2].removeprefix(f"{__name__}.UnreadableImageError: "))


def read_image(path: str, *, image_format: str = "RGB", annotated_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image as 8-bit colour.

    Grey is repeated over the channels, transparency is dropped (the pixels below it become visible), the upper 8 of 16
    bits are kept, and EXIF's orientation is applied, unless width and height of the annotations show that they were
    made on the pixels as stored.

    Args:
        path: of the file, or anything that Detectron2's ``PathManager`` resolves, such as a URL.
        image_format: ``RGB``, ``BGR`` or ``L``.
        annotated_size: ``(width, height)`` that the annotations refer to; None accepts any.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        UnreadableImageError: no such file, one that cannot be decoded, float pixels, or another size.
    """
    try:
        with _open(path) as file:
            image = Image.open(file)
            stored_size = image.size
            image.load()  # load here: PIL's EXIF lookup swallows the error, and a second call returns a partial image
            turn = _UPRIGHT.get(exif_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            if annotated_size is not None and upright.size != annotated_size == stored_size:
                upright = image
            if annotated_size is None or upright.size == annotated_size:
                return _as_array(to_eight_bits(upright), image_format)
    except Exception as error:  # PIL's decoders raise errors of many kinds on broken files
        raise UnreadableImageError(f"cannot read the image {path}: {why_unreadable(error)}") from error
    raise UnreadableImageError(
        f"the image {path} is {upright.size[0]}x{upright.size[1]}, its annotations are for "
        f"{annotated_size[0]}x{annotated_size[1]}: fix them, with tools/check_dataset.py --fix for instance"
    )


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    if "://" not in str(path):
        return open(path, "rb")
    from detectron2.utils.file_io import PathManager  # imports PyTorch, which reading a local file does not need

    return PathManager.open(path, "rb")


def _as_array(image: Image.Image, image_format: str) -> np.ndarray:
    if image_format not in ("RGB", "BGR", "L"):
        raise ValueError(f"image_format must be RGB, BGR or L, got {image_format!r}")
    pixels = np.asarray(image.convert("L" if image_format == "L" else "RGB"))
    return {"RGB": pixels, "BGR": pixels[..., ::-1], "L": pixels[..., None]}[image_format]


def why_unreadable(error: Exception) -> str:
    """The meaning of PIL's exception, on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    return one_line(error)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Reduce 16 bits to the upper 8, and turn palette transparency into a channel; return other images unchanged.

    Raises:
        ValueError: the pixels are floats of unknown range.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range; convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def exif_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) if there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # malformed EXIF raises errors of many kinds, but the pixels may be fine
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """``(width, height)`` after applying the orientation; does not read pixels."""
    width, height = image.size
    return (height, width) if exif_orientation(image) in _TRANSPOSED else (width, height)
