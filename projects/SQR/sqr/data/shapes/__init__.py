"""The embedded *shapes* dataset: procedural, deterministic, COCO format, generated on first use.

``import sqr.data`` registers ``shapes_train`` and ``shapes_val`` with Detectron2; nothing is generated until
one of them is loaded, by ``DatasetCatalog.get``, by a training or by ``python -m sqr.data.shapes --root
DIR``. The files are in a folder named after the version and a digest of all settings, so stale files are
never used::

    <DETECTRON2_DATASETS>/shapes_v1_seed0_<digest>/annotations/instances_{train,val}.json
                                                  /{train,val}/000000.png ...
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from .scene import CLASSES, SceneSettings, draw_scene

VERSION = 1  # increment when the drawings for the same settings change
SPLITS = ("train", "val")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShapesSettings:
    """Everything besides :data:`VERSION` that determines the bytes of the dataset.

    Attributes:
        train_images, val_images: number of images of each split.
        seed: of the whole dataset. Image ``i`` of a split depends only on the seed, the split and ``i``.
        scene: the appearance of an image.
    """

    train_images: int = 1500
    val_images: int = 250
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)

    @property
    def folder(self) -> str:
        """Name of the dataset's folder."""
        digest = hashlib.sha1(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"shapes_v{VERSION}_seed{self.seed}_{digest}"


DEFAULT_SETTINGS = ShapesSettings()
_registered: dict[str, tuple[Path, ShapesSettings]] = {}  # settings and location of each registered split


def dataset_root() -> Path:
    """Detectron2's dataset root: the variable DETECTRON2_DATASETS, else ``datasets``."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def ensure_shapes(root: str | Path | None = None, settings: ShapesSettings = DEFAULT_SETTINGS) -> Path:
    """Generate the dataset unless it exists, and return its folder.

    The files are written beside their final location and renamed into it, so an interrupted run leaves no partial
    dataset, and concurrent processes use the files of the first that finishes.

    Raises:
        OSError: the root cannot be written to.
    """
    root = Path(root) if root is not None else dataset_root()
    final = root / settings.folder
    if final.is_dir():
        return final
    root.mkdir(parents=True, exist_ok=True)
    logger.info("Generating the shapes dataset in %s ...", final)
    scratch = Path(tempfile.mkdtemp(prefix=f".{settings.folder}.", dir=root))
    try:
        for split in SPLITS:
            _write_split(scratch, split, settings)
        scratch.chmod(0o755)
        try:
            scratch.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def shapes_files(
    split: str, root: str | Path | None = None, settings: ShapesSettings = DEFAULT_SETTINGS
) -> tuple[Path, Path]:
    """Annotation file and image root of a split, whether or not they exist yet."""
    folder = (Path(root) if root is not None else dataset_root()) / settings.folder
    return folder / "annotations" / f"instances_{split}.json", folder / split


def load_shapes(split: str, root: str | Path, settings: ShapesSettings) -> list[dict]:
    """Detectron2 dataset dicts of a split, which is generated if needed."""
    ensure_shapes(root, settings)
    annotations, images = shapes_files(split, root, settings)
    return load_coco_json(str(annotations), str(images), f"shapes_{split}")


def register_shapes(root: str | Path | None = None, settings: ShapesSettings = DEFAULT_SETTINGS) -> None:
    """Register ``shapes_train`` and ``shapes_val`` under a dataset root, replacing earlier ones."""
    root = Path(root) if root is not None else dataset_root()
    for split in SPLITS:
        name = f"shapes_{split}"
        annotations, images = shapes_files(split, root, settings)
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, functools.partial(load_shapes, split, root, settings))
        MetadataCatalog.get(name).set(
            json_file=str(annotations),
            image_root=str(images),
            evaluator_type="coco",
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
        )
        _registered[name] = (root, settings)


def ensure_registered_shapes(name: str) -> None:
    """Generate the files behind ``shapes_train`` or ``shapes_val``; ignores other names."""
    if name in _registered:
        ensure_shapes(*_registered[name])


def _write_split(folder: Path, split: str, settings: ShapesSettings) -> None:
    count = settings.train_images if split == "train" else settings.val_images
    (folder / split).mkdir()
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng((settings.seed, SPLITS.index(split), index))
        pixels, objects = draw_scene(rng, settings.scene)
        file_name = f"{index:06d}.png"
        Image.fromarray(pixels).save(folder / split / file_name, compress_level=1)
        height, width, _ = pixels.shape
        images.append({"id": index + 1, "file_name": file_name, "height": height, "width": width})
        for item in objects:
            box = [round(v, 3) for v in item["bbox"]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": item["category"] + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {
        "info": {"description": f"shapes {split}", "version": str(VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    target = folder / "annotations" / f"instances_{split}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content))


register_shapes()
