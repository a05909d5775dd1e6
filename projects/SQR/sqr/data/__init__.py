"""Datasets, checks, augmentations. Importing this registers ``shapes_train`` and ``shapes_val``."""

from .datasets import (
    check_queries,
    detection_dataset_name,
    get_detection_dataset,
    resolve_num_classes,
)
from .images import UnreadableImageError, read_image
from .layouts import DatasetFolder, find_dataset
from .mapper import DetectionMapper
from .shapes import register_shapes
from .transforms import RandomEither, inference_augmentations, training_augmentations

__all__ = [
    "DatasetFolder",
    "DetectionMapper",
    "RandomEither",
    "UnreadableImageError",
    "check_queries",
    "detection_dataset_name",
    "find_dataset",
    "get_detection_dataset",
    "inference_augmentations",
    "read_image",
    "register_shapes",
    "resolve_num_classes",
    "training_augmentations",
]

register_shapes()
