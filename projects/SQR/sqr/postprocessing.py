"""From a stage's scores and boxes to detections."""

from __future__ import annotations

from detectron2.structures import Boxes, Instances
from torch import Tensor


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
        result = Instances(image_size)
        result.pred_boxes = Boxes(boxes[query])
        if self.clip:
            result.pred_boxes.clip(image_size)
        result.scores = best
        result.pred_classes = index % num_classes
        result.query_ids = query
        return result
