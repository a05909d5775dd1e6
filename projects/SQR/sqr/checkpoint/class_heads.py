"""Class heads of a checkpoint for a model with other classes.

Models of facebookresearch/detr and its descendants have a class for every COCO category *id* up to 90; everybody else,
and this package's COCO data, has the 80 categories in a row. From the former to the latter rows are picked, so such a
file evaluates as it is. Any other change of the number of classes is a new task, whose heads are initialized anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

COCO_CATEGORY_IDS = (
    *range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83), *range(84, 91),
)  # fmt: skip
"""The ids of COCO's 80 categories in the order of their contiguous indices."""

_NUM_IDS = 91  # ids 0 to 90
_HEAD = re.compile(r"(decoder\.stages\.\d+|query_generator)\.class_embed\.(.+\.)?(weight|bias)")


@dataclass
class ClassHeadChanges:
    """Names of the head tensors of which the COCO categories' rows were ``picked``, of two-stage models' proposal
    scorers that were ``resized``, and of heads that are ``dropped``, to be left as initialised."""

    picked: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def fit_class_heads(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor], num_classes: int
) -> tuple[dict[str, Tensor], ClassHeadChanges]:
    """Bring class heads to a model's number of classes; tensors whose shapes agree stay as they are.

    A two-stage model's scorer of proposals uses only row 0 ("an object"), whatever the classes, and all its other rows
    are only ever trained towards "no": it keeps row 0 and as many others as the model has.

    Args:
        weights: under this package's names.
        target: the model's state dict.
        num_classes: ``K`` of the model. Heads with one more output than that have "no object" last.

    Returns:
        The weights, less what is dropped, and the names of what was changed.
    """
    fitted: dict[str, Tensor] = {}
    changes = ClassHeadChanges()
    for key, tensor in weights.items():
        goal = target.get(key)
        if goal is None or not _HEAD.fullmatch(key) or not _differs_in_rows(tensor, goal):
            fitted[key] = tensor
        elif key.startswith("query_generator."):
            fitted[key] = tensor[torch.arange(len(goal)).clamp(max=len(tensor) - 1)]
            changes.resized.append(key)
        elif (rows := _coco_rows(len(tensor), len(goal), num_classes)) is not None:
            fitted[key] = tensor[rows]
            changes.picked.append(key)
        else:
            changes.dropped.append(key)
    return fitted, changes


def _differs_in_rows(tensor: Tensor, goal: Tensor) -> bool:
    return tensor.ndim == goal.ndim > 0 and tensor.shape[1:] == goal.shape[1:] and len(tensor) != len(goal)


def _coco_rows(file_rows: int, model_rows: int, num_classes: int) -> list[int] | None:
    no_object = model_rows - num_classes
    if num_classes != len(COCO_CATEGORY_IDS) or file_rows - no_object != _NUM_IDS:
        return None
    return [*COCO_CATEGORY_IDS, *range(_NUM_IDS, file_rows)]
