"""A COCO-format dataset of a few small images, and the overrides that put the quick folder config on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = "quick/deformable_detr_folder"
SMALL = [
    "data.min_size_train=[64]", "data.min_size_test=64", "data.max_size=96", "data.flip_prob=0.0",
    "data.color_jitter=0.0", "model.query_generator.num_queries=12", "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.device=cpu", "train.eval_period=0",
    "train.eval_images=0",
]  # fmt: skip


def write_tiny_coco(folder: Path, counts: tuple[int, ...] = (2, 1, 3, 1, 2), size: tuple[int, int] = (96, 64)) -> Path:
    """Write ``counts[i]`` boxes for image i as ``train`` and ``val`` (the same); return ``folder``."""
    rng = np.random.default_rng(0)
    width, height = size
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for i, count in enumerate(counts):
        picture = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        for _ in range(count):
            w, h = rng.integers(12, 30, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            label = int(rng.integers(0, 2))
            picture[y : y + h, x : x + w, label] = 220
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def dataset_overrides(folder: Path) -> list[str]:
    """The four overrides of a COCO-format dataset."""
    return [
        *(f"data.{split}.annotations={folder / f'{split}.json'}" for split in ("train", "val")),
        *(f"data.{split}.images={folder / 'images'}" for split in ("train", "val")),
    ]
