"""Class heads of a checkpoint for a model of other classes.

A row of a head belongs to a class. Where file and model say what their classes are called, rows are taken by name: the
order of the classes does not matter, classes of both keep what was learned, the others start anew. A file of 80 or 91
classes that names none is taken for COCO's: models of facebookresearch/detr and its descendants have a class for every
COCO category *id* up to 90, everybody else has the 80 categories in a row. Where the names are not known, heads for the
same number of classes are taken as they are, and others start anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

COCO_NAMES = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}
"""The names of COCO's 80 categories by their ids, in the order of their contiguous indices."""

_NUM_IDS = 91  # ids 0 to 90
_HEAD = re.compile(
    r"((?:decoder\.stages\.\d+|query_generator)\.class_embed)\.(?:(\d+)\.)?(?:weight|bias)"
    r"|(query_generator\.denoising\.label_embed\.weight)"
    r"|(network\.(?:model\.)?(?:decoder\.)?(?:class_embed|enc_score_head|enc_out_class_embed)\.(?:\d+\.)?(?:weight|bias))"
    r"|(network\.model\.denoising_class_embed\.weight)"
)
_MAIN = re.compile(r"(decoder\.stages|network\.(model\.decoder\.)?class_embed)\..+")
_RANKS_BY_ROW_0 = "query_generator.pos_trans.weight"  # of Deformable DETR's and H-DETR's two-stage forms, not of DINO


@dataclass
class ClassHeadChanges:
    """Names of head tensors by what became of them.

    Attributes:
        matched: rows were taken by the classes' names.
        new_classes: of those, the classes that the file has not; their rows are as initialised.
        resized: two-stage scorers of proposals, of which only row 0 counts, cut to the number of classes.
        dropped: left as initialised.
        differing: how names differ that are taken by position; empty where none do.
    """

    matched: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    differing: str = ""


def fit_class_heads(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    num_classes: int,
    *,
    file_classes: Sequence[str] | None = None,
    model_classes: Sequence[str] | None = None,
    complete: bool = False,
) -> tuple[dict[str, Tensor], ClassHeadChanges]:
    """Bring class heads to a model's classes.

    A two-stage scorer of proposals that uses only row 0 ("an object"), whatever the classes, keeps row 0 and as many
    others as the model has: those are only ever trained towards "no".

    Args:
        weights: under this package's names.
        target: the model's state dict.
        num_classes: ``K`` of the model. Heads with one more output than that have "no object" last.
        file_classes, model_classes: the names of the classes, where they are known.
        complete: nothing may start anew, as for an evaluation: heads of the same number of classes are taken by
            position if the names differ, and heads of another number are left as they are, of the wrong shape.

    Returns:
        The weights, less what is dropped, and what was changed.
    """
    heads, changes = _heads(weights, target), ClassHeadChanges()
    extra = next((len(target[key]) - num_classes for key in heads if _MAIN.fullmatch(key)), 0)
    in_file = next((len(weights[key]) - extra for key in heads if _MAIN.fullmatch(key)), num_classes)
    rows = _rows(in_file, num_classes, *_names(in_file, num_classes, file_classes, model_classes), complete, changes)
    fitted = dict(weights)
    for key in heads:
        tensor, goal = weights[key], target[key]
        if key.startswith("query_generator.class_embed.") and _RANKS_BY_ROW_0 in target:
            if len(tensor) != len(goal):
                fitted[key] = tensor[torch.arange(len(goal)).clamp(max=len(tensor) - 1)]
                changes.resized.append(key)
        elif rows == list(range(in_file)) and len(tensor) == len(goal):
            continue
        elif rows is not None:
            fitted[key] = _taken(tensor, goal, rows, in_file)
            changes.matched.append(key)
        elif not complete:
            del fitted[key]
            changes.dropped.append(key)
    return fitted, changes


def _heads(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """The tensors with a row for each class; of a head of several layers, those of the last."""
    matches = {key: match for key in weights if key in target and (match := _HEAD.fullmatch(key))}
    last: dict[str, int] = {}
    for match in matches.values():
        last[match[1]] = max(last.get(match[1], 0), int(match[2] or 0))
    return [
        key
        for key, match in matches.items()
        if int(match[2] or 0) == last[match[1]]
        and weights[key].ndim == target[key].ndim > 0
        and weights[key].shape[1:] == target[key].shape[1:]
    ]


def _names(
    in_file: int, num_classes: int, file_classes: Sequence[str] | None, model_classes: Sequence[str] | None
) -> tuple[list[str | None] | None, list[str] | None]:
    """What the classes of the file, and of the model, are called; None where that is not known."""
    if file_classes is not None and len(file_classes) != in_file:
        file_classes = None
    if model_classes is not None and len(model_classes) != num_classes:
        model_classes = None
    if file_classes is None and in_file == _NUM_IDS:
        file_classes = [COCO_NAMES.get(i) for i in range(_NUM_IDS)]
        if model_classes is None and num_classes == len(COCO_NAMES):
            model_classes = list(COCO_NAMES.values())
    elif file_classes is None and in_file == len(COCO_NAMES):
        file_classes = list(COCO_NAMES.values())
    return file_classes and list(file_classes), model_classes and list(model_classes)


def _rows(
    in_file: int,
    num_classes: int,
    file_classes: list[str | None] | None,
    model_classes: list[str] | None,
    complete: bool,
    changes: ClassHeadChanges,
) -> list[int | None] | None:
    """For each of the model's classes the file's row (None: a new class); nothing where all of them start anew."""
    same_number = list(range(in_file)) if in_file == num_classes else None
    if file_classes is None or model_classes is None:
        return same_number
    number = {name: i for i, name in reversed(list(enumerate(file_classes)))}
    rows = [number.get(name) for name in model_classes]
    new = [name for name, row in zip(model_classes, rows, strict=True) if row is None]
    if complete and new:
        if same_number:
            theirs, ours = next(pair for pair in zip(file_classes, model_classes, strict=True) if pair[0] != pair[1])
            changes.differing = f"{theirs!r} in the file is {ours!r} here"
        return same_number
    if len(new) == num_classes:
        return None
    changes.new_classes = new
    return rows


def _taken(tensor: Tensor, goal: Tensor, rows: list[int | None], in_file: int) -> Tensor:
    """A head of the model's classes with the file's rows; what follows the classes ("no object") stays last."""
    extra = range(min(len(tensor) - in_file, len(goal) - len(rows)))
    pairs = [(i, row) for i, row in enumerate(rows) if row is not None]
    pairs += [(len(rows) + i, in_file + i) for i in extra]
    ours, theirs = zip(*pairs, strict=True)
    fitted = goal.detach().to(tensor.device, tensor.dtype).clone()
    fitted[list(ours)] = tensor[list(theirs)]
    return fitted
