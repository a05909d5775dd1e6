"""Detection datasets by folder, by COCO-format files or by name, and the only place where classes are determined.

Configs describe a split by ``annotations`` (a COCO instances json) and ``images`` (the folder its file names are
relative to), else by ``root`` (the folder of a whole dataset) and ``split``, else by ``name`` (a dataset registered
with Detectron2).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from .layouts import CocoSplit, Split, canonical_split, find_dataset
from .prepared import prepare_split
from .shapes import ensure_registered_shapes


@dataclass(frozen=True)
class _Split:
    """A split that exists: its registered name, its class names in order, and where they were read.

    ``most_objects``, ``fullest_image`` and whether there are objects are known only for files.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    most_objects: int = 0
    fullest_image: str = ""
    has_objects: bool = True


def detection_dataset_name(
    *,
    name: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
    root: str | None = None,
    split: str | None = None,
) -> str:
    """The registered name of a split; a COCO-format file is checked and registered first.

    Args: as :func:`get_detection_dataset`.

    The name of a file is its stem and a digest of its path and image root, the same in every process and run.
    ``COCOEvaluator`` finds the annotation file under it.

    Raises:
        FileNotFoundError, ValueError: the dataset does not exist or is not usable; see
            :func:`~sqr.data.prepared.prepare_split` and :func:`~sqr.data.layouts.find_dataset`.
    """
    return _resolve_split(name=name, annotations=annotations, images=images, root=root, split=split).name


def get_detection_dataset(
    *,
    name: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
    root: str | None = None,
    split: str | None = None,
    num_classes: int | None = None,
    training: bool = False,
    filter_empty: bool = False,
) -> list[dict]:
    """Detectron2 dataset dicts of a split.

    Category ids of a COCO-format file may have gaps; classes are numbered 0, 1, ... in the order of their
    ids. Crowd annotations are part of the dicts and are left out by ``DatasetMapper`` in training, as in
    Detectron2.

    Args:
        name: a dataset registered with Detectron2.
        annotations: a COCO instances json; takes precedence over ``root``.
        images: folder that the file names in ``annotations`` are relative to.
        root: folder of a dataset in a layout that :func:`sqr.data.find_dataset` knows; takes precedence over ``name``.
        split: which of its splits.
        num_classes: of the model; None skips the check.
        training: a split without any box is an error.
        filter_empty: leave out images without objects. DETR keeps them.

    Raises:
        FileNotFoundError, ValueError: as :func:`detection_dataset_name`, or if ``num_classes`` differs
            from the data or a training split has no boxes.
    """
    found = _resolve_split(name=name, annotations=annotations, images=images, root=root, split=split)
    if num_classes is not None:
        _check_num_classes(num_classes, found)
    dicts = get_detection_dataset_dicts(found.name, filter_empty=filter_empty)
    if training and not any(a.get("iscrowd", 0) == 0 for d in dicts for a in d.get("annotations", ())):
        raise ValueError(f"{found.source} has no box to train on ({len(dicts)} images, none with a box that is usable)")
    return dicts


def resolve_num_classes(cfg: DictConfig, *, check_files: bool = True) -> None:
    """Set ``cfg.data.num_classes`` and ``cfg.data.class_names`` in place before a model is built.

    Null is replaced by the data's value; another value is compared with it. Training and validation must have the same
    categories in the same order. Does nothing for a config without a ``data`` node. The names are saved in the
    config of a run, so that the classes of a trained model are known without its data.

    Args:
        cfg: the whole config.
        check_files: also check that the files of registered datasets exist. False suffices for building a model:
            the classes of a registered dataset are then taken from its metadata.

    Raises:
        ValueError: a split is not given, ``num_classes`` or ``class_names`` differ from the data, the two splits
            differ, or there is nothing to evaluate on.
        FileNotFoundError: a file or folder is missing.
    """
    if cfg.get("data") is None:
        return
    train, val = (_split_of_config(cfg, key, check_files) for key in ("train", "val"))
    if check_files and not val.has_objects:
        raise ValueError(f"{val.source} has no box to evaluate on; choose another data.val.split")
    if train.classes != val.classes:
        raise ValueError(_difference(train, val))
    if cfg.data.num_classes is None:
        cfg.data.num_classes = len(train.classes)
    _check_num_classes(cfg.data.num_classes, train)
    if cfg.data.get("class_names") is None:
        cfg.data.class_names = list(train.classes)
    elif tuple(cfg.data.class_names) != train.classes:
        index, ours, theirs = _first_difference(cfg.data.class_names, train.classes)
        raise ValueError(
            f"data.class_names are not those of {train.source}, from class {index}: {ours!r} against {theirs!r}; "
            "data.class_names=null takes those of the data"
        )


def check_queries(cfg: DictConfig) -> None:
    """Check, before training, that a detector has a query for every object of a training image.

    An auxiliary query set (hybrid matching) needs a query for every repetition of an object. Does nothing if a number
    is not known: for a registered dataset, or a model without ``query_generator.num_queries``.

    Raises:
        ValueError: an image has more objects; the message names it.
    """
    queries = OmegaConf.select(cfg, "model.query_generator.num_queries")
    if cfg.get("data") is None or not isinstance(queries, int):
        return
    train = _split_of_config(cfg, "train", check_files=False)
    if train.most_objects > queries:
        raise ValueError(
            f"{train.source}: image {train.fullest_image!r} has {train.most_objects} objects, but the model has only "
            f"{queries} queries to match them with; set model.query_generator.num_queries={train.most_objects} or more"
        )
    auxiliary = OmegaConf.select(cfg, "model.query_generator.num_auxiliary")
    repeats = OmegaConf.select(cfg, "model.criterion.auxiliary_repeats")
    if not (isinstance(auxiliary, int) and isinstance(repeats, int)):
        return
    repeated = train.most_objects * repeats
    if 0 < auxiliary < repeated:
        raise ValueError(
            f"{train.source}: image {train.fullest_image!r} has {train.most_objects} objects, {repeated} with "
            f"model.criterion.auxiliary_repeats={repeats}, but the auxiliary set has only {auxiliary} queries; set "
            f"model.query_generator.num_auxiliary={repeated} or lower the repeats"
        )


def most_objects(cfg: DictConfig) -> int:
    """The highest number of objects in one training or validation image; 0 if unknown.

    It is known for annotation files, but not for registered datasets.
    """
    return max(_split_of_config(cfg, key, check_files=False).most_objects for key in ("train", "val"))


def _split_of_config(cfg: DictConfig, key: str, check_files: bool) -> _Split:
    split, root = cfg.data[key], cfg.data.get("root")
    if split.name is None and split.annotations is None and root is None:
        raise ValueError(
            f"data.{key} names no dataset: set data.{key}.annotations=FILE.json and data.{key}.images=FOLDER "
            f"(COCO format), data.root=FOLDER of a whole dataset, or data.{key}.name to a registered dataset"
        )
    return _resolve_split(
        name=split.name, annotations=split.annotations, images=split.images, root=root,
        split=split.get("split", key), check_files=check_files, key=f"data.{key}",
    )  # fmt: skip


def _resolve_split(
    *,
    name: str | None,
    annotations: str | None,
    images: str | None,
    root: str | None,
    split: str | None,
    check_files: bool = True,
    key: str = "",
) -> _Split:
    if annotations is not None:
        if images is None:
            raise ValueError(
                f"annotation file {annotations!r} is given without its image root: set data.train.images / "
                "data.val.images"
            )
        if os.path.isfile(annotations) and not os.path.isdir(images):
            raise FileNotFoundError(
                f"image root {images!r} of annotation file {annotations!r} does not exist: set data.train.images / "
                "data.val.images"
            )
        given = CocoSplit(os.path.abspath(annotations), (os.path.abspath(images),))
        return _register(given, f"annotation file {annotations!r}")
    if root is not None:
        if split is None:
            raise ValueError(f"the dataset {root!r} is given without the name of a split")
        return _register(
            find_dataset(root).split(split, key=key), f"split {split!r} of {root!r}", split_name=canonical_split(split)
        )
    if name is None:
        raise ValueError(
            "no dataset given: set data.root, data.{train,val}.annotations and .images, or data.{train,val}.name"
        )
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"dataset {name!r} is not registered with Detectron2{hint}")
    metadata = MetadataCatalog.get(name)
    source = metadata.get("json_file")
    if check_files:
        ensure_registered_shapes(name)
        for path in (source, metadata.get("image_root")):
            if path and "://" not in path and not os.path.exists(path):
                raise FileNotFoundError(
                    f"dataset {name!r} needs {path!r}, which does not exist: set the variable "
                    "DETECTRON2_DATASETS to the folder that holds it, or give data.{train,val}.annotations "
                    "and .images"
                )
    if metadata.get("thing_classes") is None:
        DatasetCatalog.get(name)  # many registered datasets set the class names only when loaded
    classes = metadata.get("thing_classes")
    if not classes:
        raise ValueError(f"dataset {name!r} has no 'thing_classes' in its metadata: set them where it is registered")
    return _Split(name, tuple(classes), f"dataset {name!r}" + (f" ({source})" if source else ""))


def _register(split: Split, source: str, *, split_name: str = "") -> _Split:
    """Register a split with Detectron2 under a name derived from its location, the same in every process and run."""
    prepared = prepare_split(split, name=split_name)
    given = split.annotations if isinstance(split, CocoSplit) else prepared.json_file
    digest = hashlib.sha1(f"{os.path.abspath(given)}\n{prepared.image_root}".encode()).hexdigest()[:8]
    name = f"{os.path.splitext(os.path.basename(given))[0]}_{digest}"
    classes = tuple(label for _, label in prepared.categories)
    metadata = {
        "json_file": prepared.json_file,
        "image_root": prepared.image_root,
        "evaluator_type": "coco",
        "thing_classes": list(classes),
        "thing_dataset_id_to_contiguous_id": {id_: i for i, (id_, _) in enumerate(prepared.categories)},
    }
    if name in DatasetCatalog and not metadata.items() <= MetadataCatalog.get(name).as_dict().items():
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, partial(_load_dicts, prepared.json_file, prepared.image_root))
        MetadataCatalog.get(name).set(**metadata)
    return _Split(name, classes, source, prepared.most_objects, prepared.fullest_image, prepared.has_objects)


def _load_dicts(json_file: str, image_root: str) -> list[dict]:
    """Dataset dicts of a prepared split, by image id, with boxes only."""
    with open(json_file, "rb") as file:
        content = json.loads(file.read())
    numbers = {id_: i for i, id_ in enumerate(sorted(c["id"] for c in content["categories"]))}
    dicts = {
        image["id"]: {"file_name": os.path.join(image_root, image["file_name"]), "height": image["height"],
                      "width": image["width"], "image_id": image["id"], "annotations": []}
        for image in sorted(content["images"], key=lambda image: image["id"])
    }  # fmt: skip
    for item in content["annotations"]:
        dicts[item["image_id"]]["annotations"].append(
            {"iscrowd": item["iscrowd"], "bbox": item["bbox"], "category_id": numbers[item["category_id"]],
             "bbox_mode": BoxMode.XYWH_ABS}
        )  # fmt: skip
    return list(dicts.values())


def _check_num_classes(num_classes: int, split: _Split) -> None:
    if num_classes != len(split.classes):
        raise ValueError(
            f"data.num_classes is {num_classes}, but {split.source} has {len(split.classes)} classes: set "
            f"data.num_classes={len(split.classes)} or leave it null"
        )


def _difference(train: _Split, val: _Split) -> str:
    text = f"training and validation categories differ: {train.source} has {len(train.classes)}, "
    text += f"{val.source} has {len(val.classes)}"
    only_train = [c for c in train.classes if c not in val.classes]
    only_val = [c for c in val.classes if c not in train.classes]
    if only_train:
        text += f"; only in training: {only_train}"
    if only_val:
        text += f"; only in validation: {only_val}"
    if not only_train and not only_val:
        index, ours, theirs = _first_difference(train.classes, val.classes)
        text += f"; the same names in another order, from class {index}: {ours!r} against {theirs!r} "
        text += "(classes are numbered in the order of their category ids)"
    return text


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str | None, str | None]:
    """The first difference of two lists of class names, and the name of each there."""
    pairs = enumerate(zip_longest(ours, theirs))
    return next(((i, a, b) for i, (a, b) in pairs if a != b), (0, None, None))
