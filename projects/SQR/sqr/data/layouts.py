"""Recognises how a folder holds a detection dataset, without reading its annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from glob import escape as glob_escape
from glob import glob

from . import yolo

ROBOFLOW_FILE = "_annotations.coco.json"
_ALIASES = {alias: split for split, aliases in yolo.SPLIT_FOLDERS.items() for alias in aliases}


class UnknownLayoutError(ValueError):
    """A folder in which no dataset is recognised."""


@dataclass(frozen=True)
class CocoSplit:
    """An annotation file in COCO's format.

    Attributes:
        annotations: the file.
        image_folders: folders its file names can be relative to, the likeliest first.
    """

    annotations: str
    image_folders: tuple[str, ...]

    def image_folder(self, first_image: str) -> str:
        """The folder that holds the first listed image; the likeliest that exists where none does."""
        holding = (f for f in self.image_folders if os.path.isfile(os.path.join(f, first_image)))
        existing = (f for f in self.image_folders if os.path.isdir(f))
        return next(holding, None) or next(existing, self.image_folders[0])


@dataclass(frozen=True)
class YoloSplit:
    """A split of a YOLO description."""

    description: yolo.YoloDescription
    split: str


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset on disk.

    Attributes:
        root: what was given.
        layout: ``COCO``, ``Roboflow COCO`` or ``YOLO``, or ``COCO file`` for a single annotation file.
        splits: by name, ``train``, ``val`` and ``test`` first; other names as the files have them.
    """

    root: str
    layout: str
    splits: dict[str, CocoSplit | YoloSplit] = field(default_factory=dict)

    def split(self, name: str, *, key: str = "") -> CocoSplit | YoloSplit:
        """
        Args:
            name: of the split; ``valid`` and ``validation`` mean ``val``.
            key: what the split is called in a config, for the error.

        Raises:
            ValueError: there is no such split; the message names those there are.
        """
        wanted = _ALIASES.get(name, name)
        if wanted not in self.splits:
            found = ", ".join(self.splits)
            hint = (
                f"; to use another set {key}.split, for instance {key}.split={next(iter(self.splits))}" if key else ""
            )
            raise ValueError(f"the dataset {self.root!r} ({self.layout}) has no split {name!r}, it has {found}{hint}")
        return self.splits[wanted]


def find_dataset(root: str) -> DatasetFolder:
    """Recognise the dataset in a folder, or that of a ``data.yaml``.

    Raises:
        FileNotFoundError: there is nothing at ``root``, or a ``data.yaml`` names images that are not there.
        UnknownLayoutError: no known layout; the message says what was looked for and what is there.
        ValueError: a ``data.yaml`` that makes no sense.
    """
    root = os.path.expanduser(str(root))
    if not os.path.exists(root):
        raise FileNotFoundError(f"the dataset {root!r} does not exist")
    if os.path.isfile(root):
        if root.lower().endswith((".yaml", ".yml")):
            return _sorted(root, "YOLO", _yolo_splits(root))
        raise UnknownLayoutError(f"the dataset {root!r} is a file; give its folder, or a data.yaml")
    finders: tuple[tuple[str, Callable[[str], dict]], ...] = (
        ("Roboflow COCO", _roboflow_splits),
        ("COCO", _coco_splits),
        ("YOLO", _yolo_folder),
    )
    for layout, find in finders:
        splits = find(root)
        if splits:
            return _sorted(root, layout, splits)
    there = sorted(os.listdir(root))
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") if there else "nothing"
    raise UnknownLayoutError(
        f"no dataset recognised in {root!r}: looked for train/{ROBOFLOW_FILE} (Roboflow COCO), "
        f"annotations/instances_*.json (COCO) and data.yaml (YOLO); it holds {shown}"
    )


def single_file(annotations: str, images: str | None = None) -> DatasetFolder:
    """The dataset of one COCO annotation file and its image folder; where that is not given, the usual places."""
    name = canonical_split(os.path.splitext(os.path.basename(annotations))[0].removeprefix("instances_"))
    folder = os.path.dirname(os.path.abspath(annotations))
    guesses = (folder, *_usual_folders(os.path.dirname(folder), name, name), os.path.join(folder, name))
    split = CocoSplit(annotations, (images,) if images else guesses)
    return DatasetFolder(annotations, "COCO file", {name if name in _ALIASES else "all": split})


def canonical_split(name: str) -> str:
    """``train2017`` is ``train``, ``valid`` is ``val``; a name without a known meaning stays."""
    bare = re.sub(r"[-_]?\d+$", "", name)
    return _ALIASES.get(bare.lower(), name)


def _sorted(root: str, layout: str, splits: dict) -> DatasetFolder:
    order = list(yolo.SPLIT_FOLDERS)
    names = sorted(splits, key=lambda n: (order.index(n) if n in order else len(order), n))
    return DatasetFolder(root, layout, {name: splits[name] for name in names})


def _roboflow_splits(root: str) -> dict[str, CocoSplit]:
    files = sorted(glob(os.path.join(glob_escape(root), "*", ROBOFLOW_FILE)))
    return _named({os.path.basename(os.path.dirname(f)): CocoSplit(f, (os.path.dirname(f),)) for f in files})


def _coco_splits(root: str) -> dict[str, CocoSplit]:
    files = sorted(glob(os.path.join(glob_escape(root), "annotations", "instances_*.json")))
    raw = {os.path.basename(f)[len("instances_") : -len(".json")]: f for f in files}
    return _named({n: CocoSplit(f, _usual_folders(root, n, canonical_split(n))) for n, f in raw.items()})


def _usual_folders(root: str, *names: str) -> tuple[str, ...]:
    """Where the images of a split are, with any of the names its folder can have."""
    known = [name for given in names for name in (given, *yolo.SPLIT_FOLDERS.get(given, ()))]
    folders = [os.path.join(root, *p) for n in dict.fromkeys(known) for p in ((n,), ("images", n), (n, "images"))]
    return (*folders, os.path.join(root, "images"), root)


def _yolo_folder(root: str) -> dict[str, YoloSplit]:
    description = yolo.find_description(root)
    return _yolo_splits(description) if description else {}


def _yolo_splits(path: str) -> dict[str, YoloSplit]:
    description = yolo.read_description(path)
    if not description.sources:
        raise ValueError(f"{path} names no images: it needs 'train' and 'val', each a folder or a list file")
    return {split: YoloSplit(description, split) for split in description.sources}


def _named(splits: dict[str, CocoSplit]) -> dict[str, CocoSplit]:
    """Canonical names, where no two splits would share one."""
    canonical = [canonical_split(name) for name in splits]
    unique = {n: c if canonical.count(c) == 1 else n for n, c in zip(splits, canonical, strict=True)}
    return {unique[name]: split for name, split in splits.items()}
