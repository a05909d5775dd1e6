"""From ``data.root`` and the name of a split to an annotation file and an image folder."""

from __future__ import annotations

import os

from .cache import cached_json
from .coco_files import read_coco_summary
from .layouts import CocoSplit, find_dataset
from .yolo import coco_content


def files_of_split(root: str, split: str, *, key: str = "") -> tuple[str, str]:
    """The COCO annotation file and the image folder of a split.

    A YOLO split's annotations are converted and kept in the cache folder (``$FVCORE_CACHE``, by default
    ``~/.torch/iopath_cache``) under a name that depends on their content; the user's folder is only read.

    Args:
        root: folder of a dataset, or a ``data.yaml``.
        split: its name.
        key: what the split is called in a config, for errors.

    Raises:
        FileNotFoundError, ValueError: as :func:`~sqr.data.layouts.find_dataset`, its ``split``,
            :func:`~sqr.data.coco_files.read_coco_summary` and :func:`~sqr.data.yolo.coco_content` say.
    """
    dataset = find_dataset(root)
    found = dataset.split(split, key=key)
    if isinstance(found, CocoSplit):
        first = read_coco_summary(found.annotations).image_names[0]
        return found.annotations, found.image_folder(first)
    description = found.description
    content = coco_content(description, found.split)
    return cached_json(content, f"{os.path.basename(description.root)}_{found.split}"), description.root
