"""Turns a stage's scores and boxes into detections."""

from __future__ import annotations

from typing import Protocol

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor


class Postprocessor(Protocol):
    """Selects the detections of one image; see :meth:`TopKPostprocessor.__call__`."""

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances: ...


class TopKPostprocessor:
    """The ``topk`` best (query, class) pairs, as Deformable DETR, DAB-DETR and AdaMixer are evaluated.

    Args:
        topk: detections per image, 100 in Deformable DETR, 300 in DAB-DETR.
        clip: clip boxes to the image. The official evaluations do not.
        duplicate_decay: see :func:`decay_duplicates`; None leaves scores unchanged, as published.
    """

    def __init__(self, *, topk: int = 100, clip: bool = False, duplicate_decay: float | None = None):
        self.topk, self.clip, self.duplicate_decay = topk, clip, checked_decay(duplicate_decay)

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """Select detections of one image.

        Args:
            scores: ``(Q, K)`` class probabilities.
            boxes: ``(Q, 4)`` absolute xyxy in pixels of ``image_size``.
            image_size: ``(height, width)``.

        Returns:
            Instances with ``pred_boxes``, ``scores``, ``pred_classes`` and ``query_ids`` (the query of each detection),
            sorted by score.
        """
        return _detections(*self.select(scores, boxes), image_size, clip=self.clip)

    def select(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(..., Q, K)`` and ``(..., Q, 4)`` -> scores, classes, boxes and query of each of the ``D`` detections."""
        num_queries, num_classes = scores.shape[-2:]
        best, index = scores.flatten(-2).topk(min(self.topk, num_queries * num_classes), dim=-1)
        query, labels = index // num_classes, index % num_classes
        boxes = boxes.gather(-2, query[..., None].expand(*query.shape, 4))
        if self.duplicate_decay is not None:
            # any pair better than a selected one was selected too
            best, order = decay_duplicates(best, labels, boxes, self.duplicate_decay).sort(dim=-1, descending=True)
            labels, query = labels.gather(-1, order), query.gather(-1, order)
            boxes = boxes.gather(-2, order[..., None].expand(*order.shape, 4))
        return best, labels, boxes, query


def best_class_per_query(postprocessor: Postprocessor) -> PerQueryPostprocessor:
    """The postprocessor for display: each query once, sorted by score, boxes clipped to the image."""
    decay = getattr(postprocessor, "duplicate_decay", None)
    return PerQueryPostprocessor(clip=True, duplicate_decay=decay, best_first=True)


class PerQueryPostprocessor:
    """Every query's best class, in query order: DETR's evaluation (no selection, no threshold).

    Args:
        clip: clip boxes to the image. The official evaluation does not.
        duplicate_decay: see :func:`decay_duplicates`; None leaves scores unchanged, as published.
        best_first: sort by score instead.
    """

    def __init__(self, *, clip: bool = False, duplicate_decay: float | None = None, best_first: bool = False):
        self.clip, self.duplicate_decay, self.best_first = clip, checked_decay(duplicate_decay), best_first

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """As :meth:`TopKPostprocessor.__call__`, but ``Q`` detections in query order."""
        return _detections(*self.select(scores, boxes), image_size, clip=self.clip)

    def select(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`TopKPostprocessor.select`, ``D`` being ``Q``."""
        best, classes = scores.max(-1)
        if self.duplicate_decay is not None:
            best = decay_duplicates(best, classes, boxes, self.duplicate_decay)
        if not self.best_first:
            return best, classes, boxes, torch.arange(scores.shape[-2], device=scores.device).expand_as(classes)
        best, query = best.topk(best.shape[-1], dim=-1)
        return best, classes.gather(-1, query), boxes.gather(-2, query[..., None].expand(*query.shape, 4)), query


def decay_duplicates(scores: Tensor, labels: Tensor, boxes: Tensor, exponent: float) -> Tensor:
    """Lower the scores of duplicates: ``score * (1 - IoU ** exponent)``.

    ``IoU`` is the largest one with a better detection of the same class, so that the best detection of an object keeps
    its score and one with nearly the same box loses most of it. Nothing is trained and nothing removed, but objects of
    one class that really overlap are treated as duplicates too: with an exponent of 4, an IoU of 0.5 costs the lower
    score 6 %, an IoU of 0.8 41 %.

    Args:
        scores: ``(..., D)``.
        labels: ``(..., D)`` classes.
        boxes: ``(..., D, 4)`` xyxy.
        exponent: the larger, the closer boxes must be.

    Returns:
        ``(..., D)`` in the same order.
    """
    rank = torch.arange(scores.shape[-1], device=scores.device)
    better = scores[..., None, :] > scores[..., :, None]
    better = better | ((scores[..., None, :] == scores[..., :, None]) & (rank[None, :] < rank[:, None]))
    better = better & (labels[..., None, :] == labels[..., :, None])
    low = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = area[..., :, None] + area[..., None, :] - overlap
    iou = overlap / union.clamp(min=torch.finfo(boxes.dtype).tiny)
    return scores * (1 - (iou * better).amax(-1) ** exponent)


def checked_decay(value: float | None) -> float | None:
    """The exponent itself.

    Raises:
        ValueError: it is not positive.
    """
    if value is not None and value <= 0:
        raise ValueError(f"duplicate_decay={value}: a positive exponent (4 is tried), or null for none")
    return value


def _detections(
    scores: Tensor, classes: Tensor, boxes: Tensor, query: Tensor, image_size: tuple[int, int], *, clip: bool
) -> Instances:
    result = Instances(image_size)
    result.pred_boxes = Boxes(boxes)
    if clip:
        result.pred_boxes.clip(image_size)
    result.scores = scores
    result.pred_classes = classes
    result.query_ids = query
    return result
