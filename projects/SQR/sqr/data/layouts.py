"""Recognises the layout of a detection dataset in a folder, without reading its annotations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import escape as glob_escape
from glob import glob
from itertools import islice
from typing import Protocol

from . import yolo
from .coco_files import CocoReader, load_coco
from .csv_tables import find_csv
from .cvat import find_cvat
from .image_files import ImageFinder
from .records import SplitRecord
from .sidecars import find_labelme, find_voc, is_labelme
from .values import read_file_name

ROBOFLOW_FILE = "_annotations.coco.json"
_ALIASES = {alias: split for split, aliases in yolo.SPLIT_FOLDERS.items() for alias in aliases}
_SAMPLE = 50  # number of listed images used to find the folder of images


class UnknownLayoutError(ValueError):
    """A folder in which no dataset is recognised."""


class Split(Protocol):
    """A split in any format."""

    def read(self, name: str) -> SplitRecord:
        """Read the annotations as far as possible; pixels are not decoded."""


@dataclass(frozen=True)
class CocoSplit:
    """An annotation file in COCO's format.

    Attributes:
        annotations: the file.
        image_folders: folders to which its file names can be relative, the likeliest first; empty if images do not
            matter.
    """

    annotations: str
    image_folders: tuple[str, ...]

    def read(self, name: str) -> SplitRecord:
        """As :meth:`Split.read`."""
        record = SplitRecord(name, self.annotations)
        try:
            with open(self.annotations, "rb") as file:
                data = file.read()
        except OSError as error:
            record.note("unreadable_annotations", self.annotations, f"it cannot be read: {error.strerror}")
            return record
        content = load_coco(record, data)
        if content is None:
            return record
        names = (read_file_name(i.get("file_name")) for i in content["images"] if isinstance(i, dict))
        finder = self._finder(list(islice(filter(None, names), _SAMPLE)))
        return CocoReader(record, content, finder).read()

    def _finder(self, names: Sequence[str]) -> ImageFinder | None:
        """A finder for the folder that contains most of the names; ties are resolved in favour of the likeliest."""
        if not self.image_folders:
            return None
        finders = [ImageFinder(folder) for folder in self.image_folders]
        hits = [(sum(finder.find(n) is not None for n in names), os.path.isdir(finder.folder)) for finder in finders]
        return finders[hits.index(max(hits))]


@dataclass(frozen=True)
class YoloSplit:
    """A split of a YOLO description."""

    description: yolo.YoloDescription
    split: str

    def read(self, name: str) -> SplitRecord:
        """As :meth:`Split.read`."""
        return yolo.read_yolo(name, self.description, self.split)


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset on disk.

    Attributes:
        root: what was given.
        layout: the name of the format, or ``COCO file`` for a single annotation file.
        splits: by name, ``train``, ``val`` and ``test`` first; other names as in the files.
        partial: a single file, which need not have all splits.
    """

    root: str
    layout: str
    splits: dict[str, Split] = field(default_factory=dict)
    partial: bool = False

    def split(self, name: str, *, key: str = "") -> Split:
        """Return a split.

        Args:
            name: of the split; ``valid`` and ``validation`` mean ``val``.
            key: the split's key in a config, for the error.

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
        FileNotFoundError: ``root`` does not exist, or a ``data.yaml`` names images that do not exist.
        UnknownLayoutError: no known layout; the message says what was looked for and what was found.
        ValueError: an invalid ``data.yaml``.
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
        ("COCO", _lone_coco_files),
        ("Pascal VOC", find_voc),
        ("CVAT", find_cvat),
        ("LabelMe", find_labelme),
        ("CSV", find_csv),
    )
    for layout, find in finders:
        splits = find(root)
        if splits:
            return _sorted(root, layout, splits)
    there = sorted(os.listdir(root))
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") if there else "nothing"
    raise UnknownLayoutError(
        f"no dataset recognised in {root!r}: looked for train/{ROBOFLOW_FILE} (Roboflow COCO), "
        f"annotations/instances_*.json (COCO) and data.yaml (YOLO), then for annotations of COCO, Pascal VOC, CVAT, "
        f"LabelMe or CSV; it holds {shown}"
    )


def single_file(annotations: str, images: str | None = None) -> DatasetFolder:
    """The dataset of one COCO annotation file and its image folder, by default the usual places."""
    name = canonical_split(os.path.splitext(os.path.basename(annotations))[0].removeprefix("instances_"))
    folder = os.path.dirname(os.path.abspath(annotations))
    guesses = (folder, *_usual_folders(os.path.dirname(folder), name, name), os.path.join(folder, name))
    split = CocoSplit(annotations, (images,) if images else guesses)
    return DatasetFolder(annotations, "COCO file", {name if name in _ALIASES else "all": split}, partial=True)


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


def _lone_coco_files(root: str) -> dict[str, CocoSplit]:
    """COCO files under other names; a single one without a split in its name is ``train``."""
    paths = sorted(glob(os.path.join(glob_escape(root), "*.json")))
    paths += sorted(glob(os.path.join(glob_escape(root), "annotations", "*.json")))
    found: dict[str, CocoSplit] = {}
    for path in paths if paths and not is_labelme(paths[0]) else ():
        if not _is_coco(path):
            continue
        words = re.split(r"[-_.\d]+", os.path.splitext(os.path.basename(path))[0].lower())
        name = next((_ALIASES[word] for word in words if word in _ALIASES), "train" if len(paths) == 1 else None)
        if name and name not in found:
            found[name] = CocoSplit(path, (*_usual_folders(root, name, name), os.path.dirname(path)))
    return found


def _is_coco(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "categories"} <= content.keys()


def _usual_folders(root: str, *names: str) -> tuple[str, ...]:
    """The image folder of a split, under any of its usual names."""
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
    """Canonical split names, unless two splits would share one."""
    canonical = [canonical_split(name) for name in splits]
    unique = {n: c if canonical.count(c) == 1 else n for n, c in zip(splits, canonical, strict=True)}
    return {unique[name]: split for name, split in splits.items()}
