"""Small datasets on disk in every layout that ``sqr.data`` knows, all with the same content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CLASSES = ("cat", "dog", "owl")
# split: images as (name, (width, height), objects as (class number, [x, y, width, height]))
CONTENT = {
    "train": [
        ("a.png", (64, 48), [(0, [4, 6, 20, 12]), (2, [30, 8, 25, 33])]),
        ("b.png", (40, 56), [(1, [10, 10, 12, 14])]),
        ("c.png", (64, 64), []),
    ],
    "val": [
        ("d.png", (48, 48), [(0, [3, 3, 30, 20]), (1, [20, 20, 16, 16])]),
        ("e.png", (64, 48), [(2, [2, 2, 9, 9])]),
    ],
    "test": [("f.png", (56, 40), [(1, [8, 8, 24, 16])])],
}
FOLDERS = {"train": "train", "val": "valid", "test": "test"}  # Roboflow's names


def pixels(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random colours, so that JPEG keeps them about as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))


def save_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size, seed=sum(map(ord, path.name)))).save(path)


def coco_content(images, classes=CLASSES) -> dict:
    """A split in COCO's format."""
    content = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(classes)]}
    for number, (name, (width, height), objects) in enumerate(images, start=1):
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for label, box in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return content


def write_coco(root: Path, content=CONTENT, classes=CLASSES) -> Path:
    """``annotations/instances_<split>.json`` and ``<split>/``."""
    (root / "annotations").mkdir(parents=True)
    for split, images in content.items():
        for name, size, _ in images:
            save_image(root / split / name, size)
        write_split(root, split, coco_content(images, classes))
    return root


def write_split(root: Path, split: str, content: dict) -> None:
    """(Re)write one annotation file of :func:`write_coco`'s layout."""
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def read_split_file(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def write_coco_2017(root: Path) -> Path:
    """``annotations/instances_train2017.json`` and ``images/train2017/``."""
    (root / "annotations").mkdir(parents=True)
    for split, images in CONTENT.items():
        for name, size, _ in images:
            save_image(root / "images" / f"{split}2017" / name, size)
        write_split(root, f"{split}2017", coco_content(images))
    return root


def write_roboflow(root: Path, content=CONTENT, classes=CLASSES) -> Path:
    """``train/ valid/ test/``, each with ``_annotations.coco.json``."""
    for split, images in content.items():
        folder = root / FOLDERS[split]
        for name, size, _ in images:
            save_image(folder / name, size)
        (folder / "_annotations.coco.json").write_text(json.dumps(coco_content(images, classes)))
    return root


def write_yolo(
    root: Path, *, split_first: bool = False, names="list", content=CONTENT, classes=CLASSES, **keys
) -> Path:
    """``data.yaml``, ``images/<split>/`` and ``labels/<split>/``, or ``<split>/images/`` and ``<split>/labels/``.

    ``keys`` replace what stands in the ``data.yaml``; None takes a key out.
    """
    described = {"path": ".", "nc": len(classes)}
    described["names"] = list(classes) if names == "list" else dict(enumerate(classes))
    for split, images in content.items():
        parts = (FOLDERS[split], "{}") if split_first else ("{}", split)
        described[split] = "/".join(parts).format("images")
        labels = root / "/".join(parts).format("labels")
        labels.mkdir(parents=True)
        for name, size, objects in images:
            save_image(root / described[split] / name, size)
            rows = [yolo_row(label, box, size) for label, box in objects]
            if rows or name != "c.png":  # c.png has no label file at all
                (labels / name).with_suffix(".txt").write_text("\n".join(rows) + "\n")
    described = {k: v for k, v in (described | keys).items() if v is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(described))
    return root


def yolo_row(label: int, box, size: tuple[int, int]) -> str:
    (x, y, w, h), (width, height) = box, size
    numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return " ".join([str(label), *(f"{v:.8f}" for v in numbers)])
