"""Datasets, checks, augmentations.

Names are imported on first access: checking a dataset and reading its annotations need neither PyTorch nor
Detectron2. :mod:`sqr.data.shapes`, which :mod:`sqr.data.datasets` imports, registers ``shapes_train`` and
``shapes_val`` with Detectron2.
"""

import sys
from importlib import import_module

_MODULES = {
    "datasets": (
        "check_queries",
        "detection_dataset_name",
        "get_detection_dataset",
        "most_objects",
        "resolve_num_classes",
    ),
    "images": ("UnreadableImageError", "read_image"),
    "layouts": ("DatasetFolder", "find_dataset"),
    "mapper": ("DetectionMapper",),
    "shapes": ("register_shapes",),
    "transforms": ("PixelTransforms", "RandomEither", "inference_augmentations", "training_augmentations"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "detectron2.data" in sys.modules:  # a process that uses Detectron2's catalog finds all datasets in it
    import_module(".shapes", __name__)
