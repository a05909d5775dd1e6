"""Synthetic predictions of any size, for benchmarks and tests of the analysis.

The data resembles COCO: a few objects per image in clusters of classes, most queries on background
with low scores, some on objects with boxes that improve and scores that drift from stage to stage.
"""

from __future__ import annotations

import numpy as np

from .tables import DetectionTable, StagePredictions


def synthetic_dataset(
    *, num_images: int, num_classes: int, objects_per_image: float = 7.3, seed: int = 0
) -> tuple[dict, np.random.Generator]:
    """A COCO dataset as a dict, and the random generator to continue with.

    Args:
        num_images: images of 640 x 480 pixels.
        num_classes: classes; an image shows about three of them.
        objects_per_image: Poisson mean; 1 % of objects are crowd regions.
        seed: of all random numbers.
    """
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, num_images + 1):
        shown = rng.integers(1, num_classes + 1, size=3)
        for _ in range(rng.poisson(objects_per_image)):
            width, height = np.exp(rng.uniform(np.log(12), np.log(300), size=2)).round(2)
            x, y = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(shown)),
                    "bbox": [round(float(x), 2), round(float(y), 2), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i:012d}.jpg"} for i in range(1, num_images + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, num_classes + 1)]
    return {"images": images, "categories": categories, "annotations": annotations}, rng


def synthetic_predictions(
    dataset: dict, rng: np.random.Generator, *, num_stages: int = 6, num_queries: int = 300, top_k: int = 100
) -> StagePredictions:
    """Predictions of ``num_stages`` stages for :func:`synthetic_dataset`'s images."""
    num_images, num_classes = len(dataset["images"]), len(dataset["categories"])
    target_box, target_label, on_object = _targets(dataset, rng, num_queries)
    confidence = rng.beta(1.2, 2.0, size=(num_images, num_queries))
    queries, detections = [], []
    for s in range(num_stages):
        blur = 0.25 * 0.7**s
        box = target_box + rng.normal(0, blur, target_box.shape) * target_box[..., [2, 3, 2, 3]]
        box[..., 2:] = np.maximum(box[..., 2:], 2.0)
        wrong = rng.random(target_label.shape) < 0.15 * 0.8**s
        label = np.where(wrong, rng.integers(0, num_classes, target_label.shape), target_label)
        noise = rng.normal(0, 0.08, confidence.shape)
        score = np.where(on_object, 0.15 + 0.75 * confidence, 0.12 * confidence) + noise * on_object
        score = np.clip(score, 0.001, 0.999)
        queries.append(_table(score, label, box))
        # The detector's output: the best class of every query and, for the surest queries, their second
        # class.
        second = (label + 1) % num_classes
        both = np.concatenate([score, 0.3 * score], axis=1)
        top = np.argpartition(-both, top_k, axis=1)[:, :top_k] if top_k < both.shape[1] else None
        top = np.tile(np.arange(both.shape[1]), (num_images, 1)) if top is None else top
        detections.append(_table(both, np.concatenate([label, second], axis=1), box, top))
    return StagePredictions(
        image_ids=np.arange(1, num_images + 1),
        image_sizes=np.tile(np.asarray([[480, 640]], dtype=np.int32), (num_images, 1)),
        category_ids=np.arange(1, num_classes + 1),
        queries=queries,
        detections=detections,
        source="synthetic",
    )


def _targets(dataset: dict, rng: np.random.Generator, num_queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The target of every query: a box and a class, and whether it is an object (two queries in ten)."""
    num_images, num_classes = len(dataset["images"]), len(dataset["categories"])
    box = np.exp(rng.uniform(np.log(12), np.log(300), size=(num_images, num_queries, 4)))
    box[..., 0], box[..., 1] = rng.uniform(0, 500, box.shape[:2]), rng.uniform(0, 400, box.shape[:2])
    label = rng.integers(0, num_classes, size=(num_images, num_queries))
    on_object = np.zeros((num_images, num_queries), dtype=bool)
    by_image: dict[int, list] = {}
    for a in dataset["annotations"]:
        by_image.setdefault(a["image_id"] - 1, []).append(a)
    for image, objects in by_image.items():
        used = rng.permutation(num_queries)[: num_queries // 5]
        which = rng.integers(0, len(objects), size=len(used))
        box[image, used] = np.asarray([o["bbox"] for o in objects])[which]
        label[image, used] = np.asarray([o["category_id"] - 1 for o in objects])[which]
        on_object[image, used] = True
    return box, label, on_object


def _table(score: np.ndarray, label: np.ndarray, box: np.ndarray, top: np.ndarray | None = None) -> DetectionTable:
    num_images, num_queries = box.shape[:2]
    if top is None:
        top = np.tile(np.arange(score.shape[1]), (num_images, 1))
    image = np.repeat(np.arange(num_images, dtype=np.int32), top.shape[1])
    flat = top.reshape(-1)
    return DetectionTable(
        image=image,
        query=(flat % num_queries).astype(np.int32),
        label=label[image, flat].astype(np.int32),
        score=score[image, flat].astype(np.float32),
        box=box[image, flat % num_queries].astype(np.float32),
    )
