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
        num_classes = scores.shape[1]
        best, index = scores.flatten().topk(min(self.topk, scores.numel()))
        query = index // num_classes
        return _detections(best, index % num_classes, boxes[query], query, image_size, clip=self.clip)


class PerQueryPostprocessor:
    """Every query's best class, in query order: DETR's evaluation (no selection, no threshold).

    Args:
        clip: clip boxes to the image. The official evaluation does not.
    """

    def __init__(self, *, clip: bool = False):
        self.clip = clip

    def __call__(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """As :meth:`TopKPostprocessor.__call__`, but ``Q`` detections in query order."""
        best, classes = scores.max(-1)
        query = torch.arange(len(scores), device=scores.device)
        return _detections(best, classes, boxes, query, image_size, clip=self.clip)


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
