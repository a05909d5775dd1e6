"""Hungarian matching of every group of every step against its image's objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import check_l1_format, corners_and_area, generalized_iou, l1_coordinates
from .classification import Classification
from .errors import NonFiniteError, UserError
from .structures import StagePrediction
from .targets import Targets

# (query, object) pairs per block of costs: sized for a CPU's cache, or for a GPU's memory.
_PAIRS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 22}


class MatchingProblem(NamedTuple):
    """Predictions ``(B, G, Q, ...)`` to match with the objects of their images; ``group_names`` are for messages."""

    prediction: StagePrediction
    targets: Targets
    group_names: Sequence[str]


class HungarianMatcher:
    """Optimal one-to-one assignment within each group (Carion et al., DETR, equation 1).

    Costs are computed in float32 on the predictions' device, only for each image's own objects and their classes,
    copied to the host once, and solved there group by group.

    Args:
        classification: gives the class cost of logits.
        class_weight: weight of the class cost.
        l1_weight: weight of the L1 distance of normalised boxes.
        giou_weight: weight of the negative generalised IoU.
        l1_format: coordinates of the L1 distance: "cxcywh" (DETR and most of its successors) or "xyxy"
            (AdaMixer).
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
        self.l1_format = check_l1_format(l1_format)
        self.classification = classification
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight

    @torch.no_grad()
    def __call__(self, problems: Sequence[MatchingProblem]) -> list[Tensor]:
        """Match all problems.

        Returns:
            For each problem ``(G, T)`` int64 on the predictions' device: the query that a group assigns to each of the
            batch's ``T`` objects.

        Raises:
            UserError: an image has more objects than a group has queries.
            NonFiniteError: a cost is not finite; the message names step and group, image and query.
        """
        costs = self._costs(problems)
        if costs is None:
            return [
                p.prediction.logits.new_empty((p.prediction.logits.shape[1], 0), dtype=torch.int64) for p in problems
            ]
        host = costs.cpu().numpy()  # the one device-to-host copy
        indices, start = [], 0
        for problem in problems:
            _, groups, queries, _ = problem.prediction.logits.shape
            columns = [np.empty((groups, 0), np.int64)]
            for image, objects in enumerate(problem.targets.counts):
                stop = start + groups * objects * queries
                matrix = host[start:stop].reshape(groups, objects, queries)
                start = stop
                if objects:
                    _check_finite(matrix, problem, image)
                    columns.append(np.stack([linear_sum_assignment(group)[1] for group in matrix]))
            indices.append(torch.from_numpy(np.concatenate(columns, axis=1)))
        return [i.to(p.prediction.logits.device, non_blocking=True) for i, p in zip(indices, problems, strict=True)]

    def _costs(self, problems: Sequence[MatchingProblem]) -> Tensor | None:
        """Costs ``(G, T_i, Q)`` of each problem and each of its images, concatenated in one flat tensor."""
        sizes = []
        for prediction, targets, _ in problems:
            _, groups, queries, _ = prediction.logits.shape
            _check_counts(targets, queries)
            sizes += [groups * objects * queries for objects in targets.counts]
        if sum(sizes) == 0:
            return None
        flat = problems[0].prediction.logits.new_empty(sum(sizes), dtype=torch.float32)
        parts = iter(flat.split(sizes))
        for problem in problems:
            self._fill(problem, [next(parts) for _ in problem.targets.counts])
        return flat

    def _fill(self, problem: MatchingProblem, parts: Sequence[Tensor]) -> None:
        """Write the costs of each image of a problem, in blocks of groups or queries to bound the memory for crowds."""
        (logits, boxes), targets = (problem.prediction.logits, problem.prediction.boxes), problem.targets
        _, groups, queries, _ = logits.shape
        at_once = _PAIRS_AT_ONCE.get(logits.device.type, _PAIRS_AT_ONCE["cuda"])
        all_classes, inverse, num_classes = _used_classes(targets, logits.device)
        target_coordinates = self._coordinates(targets.boxes)
        first_class = first = 0
        for image, (out, objects) in enumerate(zip(parts, targets.counts, strict=True)):
            classes = all_classes[first_class : first_class + num_classes[image]]
            first_class += num_classes[image]
            of_image = slice(first, first + objects)
            first += objects
            out = out.view(groups, objects, queries)
            for part in _pieces(groups, queries, objects, at_once):
                cost = out[part[0], :, part[1]]
                class_cost = self.classification.cost(logits[image][part].float(), classes)
                torch.index_select(class_cost, 1, inverse[of_image], out=cost)
                cost.mul_(self.class_weight)
                candidates = self._coordinates(boxes[image][part].float())
                self._add_box_cost(cost, candidates[:, :, None], target_coordinates[:, of_image, None])

    def _coordinates(self, boxes: Tensor) -> Tensor:
        """``(..., 4)`` normalised cxcywh -> ``(9, ...)``: coordinates of the L1 distance, corners, area; contiguous."""
        return torch.stack((*l1_coordinates(boxes, self.l1_format).unbind(-1), *corners_and_area(boxes)))

    def _add_box_cost(self, cost: Tensor, boxes: Tensor, targets: Tensor) -> None:
        """Add the box cost to ``(G, T, Q)``, given coordinates of boxes ``(9, G, 1, Q)`` and targets ``(9, T, 1)``."""
        buffer = torch.empty_like(cost)
        for ours, theirs in zip(boxes[:4], targets[:4], strict=True):
            cost.add_(torch.sub(ours, theirs, out=buffer).abs_(), alpha=self.l1_weight)
        cost.sub_(generalized_iou(boxes[4:], targets[4:]), alpha=self.giou_weight)


def _pieces(groups: int, queries: int, objects: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    """Groups and queries of about ``at_once`` pairs of a query and an object: several groups, or a part of one."""
    if objects == 0:
        return
    if objects * queries <= at_once:
        step = at_once // (objects * queries)
        yield from ((slice(i, i + step), slice(None)) for i in range(0, groups, step))
    else:  # proposals of a two-stage encoder: one group with as many queries as there are tokens
        step = max(1, at_once // objects)
        yield from ((slice(i, i + 1), slice(j, j + step)) for i in range(groups) for j in range(0, queries, step))


def _used_classes(targets: Targets, device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
    """The classes of each image's objects, concatenated; each object's index among them; their number per image.

    Computed on the host and copied to the device at once.
    """
    classes, places, counts = [], [], []
    for labels in targets.class_ids:
        used, inverse = np.unique(labels.numpy(), return_inverse=True)
        classes.append(used)
        places.append(inverse.reshape(-1))
        counts.append(len(used))
    joint = torch.from_numpy(np.concatenate(classes + places).astype(np.int64)).to(device, non_blocking=True)
    return *joint.split([sum(counts), sum(targets.counts)]), counts


def _check_counts(targets: Targets, queries: int) -> None:
    for image, objects in enumerate(targets.counts):
        if objects > queries:
            raise UserError(
                f"image {targets.image_ids[image]} has {objects} objects, but a group has only {queries} "
                f"queries to match them with; raise num_queries to at least {objects}"
            )


def _check_finite(matrix: np.ndarray, problem: MatchingProblem, image: int) -> None:
    if np.isfinite(matrix).all():
        return
    group, _, query = np.argwhere(~np.isfinite(matrix))[0]
    raise NonFiniteError(
        f"the matching cost of image {problem.targets.image_ids[image]} is not finite at "
        f"{problem.group_names[group]}, query {query} (images of this batch: {list(problem.targets.image_ids)}): the "
        "model's predictions diverged; lower the learning rate, clip gradients, or look at that image's boxes"
    )
