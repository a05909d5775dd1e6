"""Datasets, checks, augmentations. Importing this registers ``shapes_train`` and ``shapes_val``."""

from .datasets import (
    detection_dataset_name,
    fast_coco_eval_is_built,
    get_detection_dataset,
    resolve_num_classes,
)
from .shapes import register_shapes
from .transforms import RandomEither, inference_augmentations, training_augmentations

__all__ = [
    "RandomEither",
    "detection_dataset_name",
    "fast_coco_eval_is_built",
    "get_detection_dataset",
    "inference_augmentations",
    "register_shapes",
    "resolve_num_classes",
    "training_augmentations",
]

register_shapes()
