"""Converts a split of any format to what training, evaluation and analysis use: a COCO file and an image folder.

A COCO file that needs no change is used directly. Otherwise a corrected copy is used, in the cache folder
(``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``) under a name that depends on its content; the user's folder
is only read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache

from .cache import cached_json
from .image_files import ImageFinder
from .layouts import CocoSplit, Split
from .records import coco_content, raise_errors


@dataclass(frozen=True)
class PreparedSplit:
    """A split that can be used.

    Attributes:
        json_file: a valid file in COCO's format.
        image_root: to which its file names are relative.
        categories: ``(id, name)`` in the order of the contiguous class numbers.
        has_objects: there is an object that is not a crowd.
        most_objects: the highest number of objects to train on in one image.
        fullest_image: ``file_name`` of that image.
        image_names: ``file_name`` of each image.
    """

    json_file: str
    image_root: str
    categories: tuple[tuple[int, str], ...]
    has_objects: bool
    most_objects: int
    fullest_image: str
    image_names: tuple[str, ...]


def prepare_split(split: Split, *, name: str = "") -> PreparedSplit:
    """Read a split; raise an error if it cannot be trained or evaluated on.

    Args:
        split: in any format.
        name: of the split, for the name of the file made of it.

    Raises:
        FileNotFoundError, ValueError: as :func:`~sqr.data.records.raise_errors`, or the annotation file or the image
            folder is missing.
    """
    if not isinstance(split, CocoSplit):
        return _prepare(split, name)
    if not os.path.isfile(split.annotations):
        raise FileNotFoundError(
            f"annotation file {split.annotations!r} does not exist: point data.train.annotations / "
            "data.val.annotations at a COCO instances json, or data.root at the folder of a dataset"
        )
    with open(split.annotations, "rb") as file:
        prepared = _prepare_cached(split, hashlib.sha1(file.read()).hexdigest())
    finder = ImageFinder(prepared.image_root)
    in_place = not split.image_folders or all(finder.find(name) == name for name in prepared.image_names)
    if in_place and os.path.isfile(prepared.json_file):
        return prepared
    return _prepare(split, name)  # images or the copy have been moved since


@lru_cache(maxsize=16)
def _prepare_cached(split: CocoSplit, digest: str) -> PreparedSplit:
    """``digest`` is only part of the cache key: a changed file is read again."""
    return _prepare(split, "")


def _prepare(split: Split, name: str) -> PreparedSplit:
    record = split.read(name)
    raise_errors(record)
    if record.as_is:
        json_file = os.path.abspath(record.source)
    else:
        given = split.annotations if isinstance(split, CocoSplit) else f"{record.folder}_{name}"
        json_file = cached_json(coco_content(record), os.path.splitext(os.path.basename(given))[0])
    counts = [sum(not item.crowd for item in image.objects) for image in record.images]
    most = max(counts, default=0)
    return PreparedSplit(
        json_file=json_file,
        image_root=os.path.abspath(record.folder),
        categories=tuple(zip(record.category_ids, record.classes, strict=True)),
        has_objects=record.has_objects,
        most_objects=most,
        fullest_image=record.images[counts.index(most)].file_name if counts else "",
        image_names=tuple(image.file_name for image in record.images),
    )


def usable_annotations(path: str) -> str:
    """The ``json_file`` that :func:`prepare_split` returns for a COCO file, without its images.

    Raises:
        FileNotFoundError, ValueError: as :func:`prepare_split`.
    """
    return prepare_split(CocoSplit(path, ())).json_file
