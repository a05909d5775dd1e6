"""The set loss over all steps and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from .boxes import cxcywh_to_xyxy
from .classification import Classification
from .matcher import HungarianMatcher, MatchingProblem
from .recollection import Plan
from .structures import StagePrediction
from .targets import Targets

REDUCTIONS = ("sum", "mean")


class SetCriterion(nn.Module):
    """Class, L1 and generalised-IoU losses of matched sets (Carion et al., DETR; Chen et al., SQR, section 3).

    Every group of every step is matched on its own and weighs the same: losses are summed over groups and steps, so a
    recollecting plan raises the total in proportion to its sets (32 instead of 6 for SQR), as in the paper. Several
    groups of *initial* queries (Group DETR) are averaged instead, as published there. All sets share one normaliser,
    the number of objects in the batch averaged over processes, at least 1 (DETR's softmax loss is a mean over queries
    instead).

    Args:
        matcher: assigns queries to objects.
        classification: class loss and probabilities.
        class_weight: weight of the class loss (2 in Deformable DETR and AdaMixer, 1 in DETR and DAB-DETR).
        l1_weight: weight of the L1 loss of normalised boxes, in the matcher's ``l1_format``.
        giou_weight: weight of ``1 - GIoU``.
        group_reduction: "sum" over a step's groups (the paper) or their "mean".
        step_weights: a factor for each step of the plan; 1 each when None.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        classification: Classification,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        group_reduction: str = "sum",
        step_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        if group_reduction not in REDUCTIONS:
            raise ValueError(f"group_reduction={group_reduction!r}: one of {', '.join(REDUCTIONS)}")
        self.matcher = matcher
        self.classification = classification
        self.weights = {"class": class_weight, "l1": l1_weight, "giou": giou_weight}
        self.group_reduction = group_reduction
        self.step_weights = None if step_weights is None else tuple(float(w) for w in step_weights)

    def forward(
        self,
        predictions: Sequence[StagePrediction],
        plan: Plan,
        targets: Targets,
        proposals: StagePrediction | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch.

        Args:
            predictions: one a step of ``plan``, all with the same ``Q``; how many groups each has is read from it
                (a multiple of ``plan.groups`` if the initial queries are several groups).
            plan: what made them.
            targets: the batch's objects.
            proposals: of a two-stage encoder; trained with every object as class 0.

        Returns:
            At most one scalar a loss and step: ``loss_class/stage1``, ``loss_l1/stage1``, ``loss_giou/stage1``, ...,
            and ``loss_class/proposals``, ... of the encoder. Their sum is the loss to minimise.

        Raises:
            ValueError, FloatingPointError: see :class:`~sqr.matcher.HungarianMatcher`.
        """
        if self.step_weights is not None and len(self.step_weights) != plan.num_steps:
            raise ValueError(f"step_weights has {len(self.step_weights)} entries for {plan.num_steps} steps of {plan}")
        with torch.autocast(targets.boxes.device.type, enabled=False):
            problems = [self._decoder_problem(predictions, plan, targets)]
            if proposals is not None:
                floats = StagePrediction(proposals.logits.float(), proposals.boxes.float())
                problems.append(MatchingProblem(floats, targets.class_agnostic(), ["encoder proposals"]))
            matches = self.matcher(problems)
            normaliser = average_count(len(targets), targets.boxes.device)
            groups = [p.logits.shape[1] for p in predictions]
            factors = self._step_factors(groups, plan)
            losses = self._step_losses(problems[0], matches[0], normaliser, groups, plan.step_names, factors)
            if proposals is not None:
                losses.update(self._step_losses(problems[1], matches[1], normaliser, [1], ["proposals"], [1.0]))
        return losses

    def _step_factors(self, groups: Sequence[int], plan: Plan) -> list[float]:
        """What each step's sum over its groups is multiplied with."""
        weights = [1.0] * plan.num_steps if self.step_weights is None else self.step_weights
        initial_groups = groups[0] // plan.groups[0]
        divisors = groups if self.group_reduction == "mean" else [initial_groups] * plan.num_steps
        return [weight / divisor for weight, divisor in zip(weights, divisors, strict=True)]

    @staticmethod
    def _decoder_problem(predictions: Sequence[StagePrediction], plan: Plan, targets: Targets) -> MatchingProblem:
        """All steps as one problem: their groups side by side, ``(B, total, Q, ...)``."""
        names = [
            f"{name}, group {i + 1} of {p.logits.shape[1]}"
            for name, p in zip(plan.step_names, predictions, strict=True)
            for i in range(p.logits.shape[1])
        ]
        joint = StagePrediction(
            logits=torch.cat([p.logits.float() for p in predictions], dim=1),
            boxes=torch.cat([p.boxes.float() for p in predictions], dim=1),
        )
        return MatchingProblem(joint, targets, names)

    def _step_losses(
        self,
        problem: MatchingProblem,
        match: Tensor,
        normaliser: Tensor,
        groups: Sequence[int],
        names: Sequence[str],
        factors: Sequence[float],
    ) -> dict[str, Tensor]:
        """Reduce the losses of ``sum(groups)`` groups to one scalar a loss and step."""
        per_group = self._group_losses(problem, match, normaliser)
        losses = {}
        for kind, values in per_group.items():
            for factor, name, part in zip(factors, names, values.split(list(groups)), strict=True):
                weight = self.weights[kind] * factor
                if weight != 0:
                    losses[f"loss_{kind}/{name}"] = weight * part.sum()
        return losses

    def _group_losses(self, problem: MatchingProblem, match: Tensor, normaliser: Tensor) -> Mapping[str, Tensor]:
        """Unweighted, normalised sums of each loss, ``(G,)`` each."""
        prediction, targets, _ = problem
        num_groups, num_objects = match.shape
        image = targets.image_index.expand(num_groups, -1)
        group = torch.arange(num_groups, device=match.device)[:, None].expand(-1, num_objects)
        matched = (image, group, match)
        boxes = prediction.boxes[matched]  # (G, T, 4)
        goal = targets.boxes.expand_as(boxes)
        giou = generalized_box_iou_loss(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(goal), reduction="none")
        return {
            "class": self.classification.loss(prediction.logits, matched, targets.labels.expand_as(match), normaliser),
            "l1": (self.matcher.l1_coordinates(boxes) - self.matcher.l1_coordinates(goal)).abs().sum((1, 2))
            / normaliser,
            "giou": giou.sum(1) / normaliser,
        }


def average_count(count: int, device: torch.device) -> Tensor:
    """A count averaged over all processes and clamped to at least 1: a scalar tensor, never read back to the host."""
    total = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1)
