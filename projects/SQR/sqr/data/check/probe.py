"""Reads image files: size, pixel format, orientation, whether they decode, a digest of their content."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..images import exif_orientation, upright_size, why_unreadable


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image file.

    Attributes:
        size: ``(width, height)`` as displayed; ``stored_size``: before the orientation of EXIF is applied.
        mode: PIL's name of the pixel format.
        orientation: EXIF's, 1 to 8.
        transparent: it has an alpha channel or a transparent palette entry.
        digest: of the file's bytes; empty if it was not decoded.
        fingerprint: 64 bits that are alike for images that look alike (whether each of 8 x 8 areas is brighter than
            its right neighbour); None if it was not decoded or has a single colour.
        error: why it cannot be used, empty if it can.
        missing: there is no such file.
    """

    size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    mode: str = ""
    orientation: int = 1
    transparent: bool = False
    digest: str = ""
    fingerprint: int | None = None
    error: str = ""
    missing: bool = False


def probe_images(paths: Sequence[str], *, decode: bool = True, workers: int | None = None) -> list[ImageFacts]:
    """Read many files; PIL's decoders run in parallel threads.

    Args:
        paths: of the files.
        decode: also decode the pixels, which is the only way to find truncated files; otherwise only headers are read.
        workers: threads; by default the number of cores, at most 16.
    """
    workers = workers or min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_decoded if decode else _header, paths))


def _header(path: str) -> ImageFacts:
    try:
        with Image.open(path) as image:
            return ImageFacts(**_facts(image))
    except Exception as error:  # PIL's parsers raise errors of many kinds on broken files
        return _failure(path, error)


def _decoded(path: str) -> ImageFacts:
    try:
        with open(path, "rb") as file:
            data = file.read()
        with Image.open(io.BytesIO(data)) as image:
            facts = _facts(image)
            image.draft(image.mode, (72, 64))  # JPEG: read the whole file, but decode at the smallest sufficient size
            image.load()
            return ImageFacts(**facts, digest=hashlib.sha1(data).hexdigest(), fingerprint=_fingerprint(image))
    except Exception as error:  # as above
        return _failure(path, error)


def _facts(image: Image.Image) -> dict:
    return {
        "size": upright_size(image),
        "stored_size": image.size,
        "mode": image.mode,
        "orientation": exif_orientation(image),
        "transparent": "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"),
    }


def _fingerprint(image: Image.Image) -> int | None:
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = grey[:, :-1] > grey[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big") if bits.any() else None


def _failure(path: str, error: Exception) -> ImageFacts:
    return ImageFacts(error=why_unreadable(error), missing=not os.path.isfile(path))
