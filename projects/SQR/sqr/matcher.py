"""Hungarian matching of every group of every step against its image's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import cxcywh_to_xyxy
from .classification import Classification
from .structures import StagePrediction
from .targets import Targets

L1_FORMATS = ("cxcywh", "xyxy")


class MatchingProblem(NamedTuple):
    """Predictions ``(B, G, Q, ...)`` to match with the objects of their images; ``group_names`` are for messages."""

    prediction: StagePrediction
    targets: Targets
    group_names: Sequence[str]


class HungarianMatcher:
    """Optimal one-to-one assignment inside each group (Carion et al., DETR, equation 1).

    Costs are built in float32 on the predictions' device, for each image against its own objects only, moved to the
    host in one copy, and solved there a group at a time.

    Args:
        classification: gives the class cost of logits.
        class_weight: weight of the class cost.
        l1_weight: weight of the L1 distance of normalised boxes.
        giou_weight: weight of the negative generalised IoU.
        l1_format: the coordinates whose L1 distance counts, here and in the criterion's L1 loss: "cxcywh" (DETR and
            most of its successors) or "xyxy" (AdaMixer).
    """

    def __init__(
        self,
        *,
        classification: Classification,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        l1_format: str = "cxcywh",
    ):
        if l1_format not in L1_FORMATS:
            raise ValueError(f"l1_format={l1_format!r}: one of {', '.join(L1_FORMATS)}")
        self.l1_format = l1_format
        self.classification = classification
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight

    def l1_coordinates(self, boxes: Tensor) -> Tensor:
        """``(..., 4)`` normalised cxcywh -> the coordinates whose L1 distance is cost and loss."""
        return boxes if self.l1_format == "cxcywh" else cxcywh_to_xyxy(boxes)

    @torch.no_grad()
    def __call__(self, problems: Sequence[MatchingProblem]) -> list[Tensor]:
        """Match all problems.

        Returns:
            For each problem ``(G, T)`` int64 on the predictions' device: the query that a group assigns to each of the
            batch's ``T`` objects.

        Raises:
            ValueError: an image has more objects than a group has queries.
            FloatingPointError: a cost is not finite; the message names step and group, image and query.
        """
        costs = [self._costs(problem) for problem in problems]
        flat = [c.flatten() for of_problem in costs for c in of_problem]
        host = torch.cat(flat).cpu().numpy() if flat else np.empty(0, np.float32)  # the one device-to-host copy
        indices, start = [], 0
        for problem, of_problem in zip(problems, costs, strict=True):
            columns = []
            counts = [(i, n) for i, n in enumerate(problem.targets.counts) if n]
            for (image, _), cost in zip(counts, of_problem, strict=True):
                matrix = host[start : start + cost.numel()].reshape(cost.shape)
                start += cost.numel()
                _check_finite(matrix, problem, image)
                columns.append(np.stack([linear_sum_assignment(group)[1] for group in matrix]))
            groups = problem.prediction.logits.shape[1]
            empty = np.empty((groups, 0), np.int64)
            indices.append(torch.from_numpy(np.concatenate([empty, *columns], axis=1)))
        return [
            index.to(p.prediction.logits.device, non_blocking=True) for index, p in zip(indices, problems, strict=True)
        ]

    def _costs(self, problem: MatchingProblem) -> list[Tensor]:
        """``(G, T_i, Q)`` of each image that has objects."""
        prediction, targets, _ = problem
        queries = prediction.logits.shape[2]
        costs = []
        for image, boxes in enumerate(targets.boxes.split(targets.counts)):
            if not len(boxes):
                continue
            if len(boxes) > queries:
                raise ValueError(
                    f"image {targets.image_ids[image]} has {len(boxes)} objects, but a group has only {queries} "
                    f"queries to match them with; raise num_queries to at least {len(boxes)}"
                )
            logits = prediction.logits[image].float()
            costs.append(self._image_cost(logits, prediction.boxes[image].float(), targets.class_ids[image], boxes))
        return costs

    def _image_cost(self, logits: Tensor, boxes: Tensor, classes: Tensor, target_boxes: Tensor) -> Tensor:
        """``(G, Q, C)``, ``(G, Q, 4)``, host ``(T,)`` and ``(T, 4)`` -> ``(G, T, Q)``."""
        used, inverse = classes.unique(return_inverse=True)
        class_cost = self.classification.cost(logits, used.to(logits.device)).transpose(1, 2)
        cost = self.class_weight * class_cost[:, inverse.to(logits.device)]
        goal = self.l1_coordinates(target_boxes).expand(len(boxes), -1, -1)
        cost += self.l1_weight * torch.cdist(goal, self.l1_coordinates(boxes), p=1)
        cost -= self.giou_weight * pairwise_giou(cxcywh_to_xyxy(target_boxes), cxcywh_to_xyxy(boxes))
        return cost


def pairwise_giou(targets: Tensor, boxes: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of ``(T, 4)`` with each group of ``(G, Q, 4)``, both xyxy.

    Returns:
        ``(G, T, Q)``. Two boxes without any extent at the same place have GIoU -1, as disjoint ones have at most.
    """
    t = targets[None, :, None].unbind(-1)
    b = boxes[:, None].unbind(-1)
    area_t = (t[2] - t[0]) * (t[3] - t[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    inter = (torch.minimum(t[2], b[2]) - torch.maximum(t[0], b[0])).clamp(min=0)
    inter = inter * (torch.minimum(t[3], b[3]) - torch.maximum(t[1], b[1])).clamp(min=0)
    union = area_t + area_b - inter
    hull = torch.maximum(t[2], b[2]) - torch.minimum(t[0], b[0])
    hull = hull * (torch.maximum(t[3], b[3]) - torch.minimum(t[1], b[1]))
    eps = torch.finfo(boxes.dtype).tiny
    return inter / union.clamp(min=eps) + union / hull.clamp(min=eps) - 1


def _check_finite(matrix: np.ndarray, problem: MatchingProblem, image: int) -> None:
    if np.isfinite(matrix).all():
        return
    group, _, query = np.argwhere(~np.isfinite(matrix))[0]
    raise FloatingPointError(
        f"the matching cost of image {problem.targets.image_ids[image]} is not finite at "
        f"{problem.group_names[group]}, query {query} (images of this batch: {list(problem.targets.image_ids)}): the "
        "model's predictions diverged; lower the learning rate, clip gradients, or look at that image's boxes"
    )
