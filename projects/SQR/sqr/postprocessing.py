"""From a stage's scores and boxes to detections."""

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
        topk: detections an image, 100 in Deformable DETR, 300 in DAB-DETR.
        clip: clip boxes to the image. The official evaluations do not.
    """

    def __init__(self, *, topk: int = 100, clip: bool = False):
        self.topk, self.clip = topk, clip

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """Select detections of one image.

        Args:
            scores: ``(Q, K)`` class probabilities.
            boxes: ``(Q, 4)`` absolute xyxy in pixels of ``image_size``.
            image_size: ``(height, width)``.

        Returns:
            Instances with ``pred_boxes``, ``scores``, ``pred_classes`` and ``query_ids`` (the query that each came
            from), best first.
        """
        return _detections(*self.select(scores, boxes), image_size, clip=self.clip)

    def select(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(..., Q, K)`` and ``(..., Q, 4)`` -> scores, classes, boxes and query of each of the ``D`` detections."""
        num_queries, num_classes = scores.shape[-2:]
        best, index = scores.flatten(-2).topk(min(self.topk, num_queries * num_classes), dim=-1)
        query = index // num_classes
        return best, index % num_classes, boxes.gather(-2, query[..., None].expand(*query.shape, 4)), query


class PerQueryPostprocessor:
    """Every query's best class, in query order: DETR's evaluation (no selection, no threshold).

    Args:
        clip: clip boxes to the image. The official evaluation does not.
        best_first: order by score instead.
    """

    def __init__(self, *, clip: bool = False, best_first: bool = False):
        self.clip, self.best_first = clip, best_first

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """As :meth:`TopKPostprocessor.__call__`, but ``Q`` detections in query order."""
        return _detections(*self.select(scores, boxes), image_size, clip=self.clip)

    def select(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`TopKPostprocessor.select`, ``D`` being ``Q``."""
        best, classes = scores.max(-1)
        if not self.best_first:
            return best, classes, boxes, torch.arange(scores.shape[-2], device=scores.device).expand_as(classes)
        best, query = best.topk(best.shape[-1], dim=-1)
        return best, classes.gather(-1, query), boxes.gather(-2, query[..., None].expand(*query.shape, 4)), query


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
