"""Detection datasets by name or by COCO-format files, and the one place where the number of classes is
settled.

Configs describe a split by three values: ``name`` (a dataset registered with Detectron2), ``annotations`` (a
COCO instances json) and ``images`` (the folder its file names are relative to). Where ``annotations`` is
given it wins.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig

from .coco_files import check_images, read_coco_summary
from .shapes import ensure_registered_shapes


@dataclass(frozen=True)
class _Split:
    """A split that exists: its registered name, its class names in order, and where they were read."""

    name: str
    classes: tuple[str, ...]
    source: str


def detection_dataset_name(
    *, name: str | None = None, annotations: str | None = None, images: str | None = None
) -> str:
    """The registered name of a split; a COCO-format file is checked and registered first.

    The name of a file is its stem and a digest of its path and image root, the same in every process and run.
    ``COCOEvaluator`` finds the annotation file under it.

    Raises:
        FileNotFoundError, ValueError: what is given does not exist or is not usable; see
            :mod:`sqr.data.coco_files`.
    """
    return _resolve_split(name=name, annotations=annotations, images=images).name


def get_detection_dataset(
    *,
    name: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
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
        annotations: a COCO instances json; wins over ``name``.
        images: folder that the file names in ``annotations`` are relative to.
        num_classes: what the model was built for; None skips the check.
        training: a split without a single box is then an error.
        filter_empty: leave out images without objects. DETR keeps them.

    Raises:
        FileNotFoundError, ValueError: as :func:`detection_dataset_name`, and where ``num_classes`` differs
            from the data or a training split has no boxes.
    """
    split = _resolve_split(name=name, annotations=annotations, images=images)
    if num_classes is not None:
        _check_num_classes(num_classes, split)
    dicts = get_detection_dataset_dicts(split.name, filter_empty=filter_empty)
    if training and not any(a.get("iscrowd", 0) == 0 for d in dicts for a in d.get("annotations", ())):
        raise ValueError(f"{split.source} has no box to train on ({len(dicts)} images, no annotation that is no crowd)")
    return dicts


def resolve_num_classes(cfg: DictConfig, *, check_files: bool = True) -> None:
    """Settle ``cfg.data.num_classes`` before a model is built, in place.

    Null becomes the number of categories of the data; a number is compared with them. Training and validation
    must have the same categories in the same order. Does nothing for a config without a ``data`` node.

    Args:
        cfg: the whole config.
        check_files: also check that the files of registered datasets exist. False is for building a model
            alone: the classes of a registered dataset are then taken from its metadata.

    Raises:
        ValueError: a split is not given, ``num_classes`` differs from the data, or the two splits differ.
        FileNotFoundError: a file or folder is missing.
    """
    if cfg.get("data") is None:
        return
    train, val = (_split_of_config(cfg, key, check_files) for key in ("train", "val"))
    if train.classes != val.classes:
        raise ValueError(_difference(train, val))
    if cfg.data.num_classes is None:
        cfg.data.num_classes = len(train.classes)
    _check_num_classes(cfg.data.num_classes, train)


def fast_coco_eval_is_built() -> bool:
    """Whether Detectron2's compiled COCO evaluation can be used; it is absent where ``detectron2._C`` is."""
    return importlib.util.find_spec("detectron2._C") is not None


def _split_of_config(cfg: DictConfig, key: str, check_files: bool) -> _Split:
    split = cfg.data[key]
    if split.name is None and split.annotations is None:
        raise ValueError(
            f"data.{key} names no dataset: set data.{key}.annotations=FILE.json and data.{key}.images=FOLDER "
            f"(COCO format), or data.{key}.name to a registered dataset"
        )
    return _resolve_split(name=split.name, annotations=split.annotations, images=split.images, check_files=check_files)


def _resolve_split(
    *, name: str | None, annotations: str | None, images: str | None, check_files: bool = True
) -> _Split:
    if annotations is not None:
        return _register_files(annotations, images)
    if name is None:
        raise ValueError("no dataset given: set data.{train,val}.annotations and .images, or data.{train,val}.name")
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
        DatasetCatalog.get(name)  # many registrations fill in the class names only when loaded
    classes = metadata.get("thing_classes")
    if not classes:
        raise ValueError(f"dataset {name!r} has no 'thing_classes' in its metadata: set them where it is registered")
    return _Split(name, tuple(classes), f"dataset {name!r}" + (f" ({source})" if source else ""))


def _register_files(annotations: str, images: str | None) -> _Split:
    if images is None:
        raise ValueError(
            f"annotation file {annotations!r} is given without its image root: set data.train.images / data.val.images"
        )
    summary = read_coco_summary(annotations)
    check_images(summary, images)
    annotations, images = os.path.abspath(annotations), os.path.abspath(images)
    digest = hashlib.sha1(f"{annotations}\n{images}".encode()).hexdigest()[:8]
    name = f"{os.path.splitext(os.path.basename(annotations))[0]}_{digest}"
    classes = tuple(label for _, label in summary.categories)
    metadata = {
        "thing_classes": list(classes),
        "thing_dataset_id_to_contiguous_id": {id_: i for i, (id_, _) in enumerate(summary.categories)},
    }
    if name in DatasetCatalog and not metadata.items() <= MetadataCatalog.get(name).as_dict().items():
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)
    if name not in DatasetCatalog:
        register_coco_instances(name, metadata, annotations, images)
    return _Split(name, classes, f"annotation file {annotations!r}")


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
        index = next((i for i, (a, b) in enumerate(zip(train.classes, val.classes, strict=False)) if a != b), 0)
        text += f"; the same names in another order, from class {index}: {train.classes[index]!r} against "
        text += f"{val.classes[index]!r} (classes are numbered in the order of their category ids)"
    return text
