"""The set loss over all steps and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .boxes import check_l1_format, corners_and_area, generalized_iou, l1_coordinates
from .classification import Classification
from .errors import UserError
from .matcher import HungarianMatcher, MatchingProblem
from .ops import without_autocast
from .recollection import Plan
from .structures import StagePrediction
from .targets import Targets

REDUCTIONS = ("sum", "mean")


class LossTerm(NamedTuple):
    """A query set and how its losses are reduced: one scalar per loss and name.

    ``groups``, ``names`` and ``factors`` have one entry per step; ``repeats`` is how often its targets repeat each
    object.
    """

    problem: MatchingProblem
    groups: Sequence[int]
    names: Sequence[str]
    factors: Sequence[float]
    repeats: int = 1


class SetCriterion(nn.Module):
    """Class, L1 and generalised-IoU losses of matched sets (Carion et al., DETR; Chen et al., SQR, section 3).

    Every group of every step is matched separately and has equal weight: losses are summed over groups and steps, so a
    recollecting plan raises the total in proportion to its sets (32 instead of 6 for SQR), as in the paper. Several
    groups of *initial* queries (Group DETR) are averaged instead, as published there. All sets share one normaliser,
    the number of objects in the batch averaged over processes, repetitions counted, and at least 1 (DETR's softmax loss
    is a mean over queries instead).

    Args:
        matcher: assigns queries to objects.
        classification: class loss and probabilities.
        class_weight: weight of the class loss (2 in Deformable DETR and AdaMixer, 1 in DETR and DAB-DETR).
        l1_weight: weight of the L1 loss of normalised boxes.
        giou_weight: weight of ``1 - GIoU``.
        l1_format: as for :class:`~sqr.matcher.HungarianMatcher`, which should have the same.
        group_reduction: "sum" over a step's groups (the paper) or their "mean".
        auxiliary_repeats: how often every object is repeated for an auxiliary query set, if the query generator
            creates one (Jia et al., "DETRs with Hybrid Matching", CVPR 2023: 6).
        auxiliary_weight: weight of the auxiliary set's losses, each normalised by the repeated objects.
        denoising_weight: weight of the denoising set's losses.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        classification: Classification,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        l1_format: str = "cxcywh",
        group_reduction: str = "sum",
        auxiliary_repeats: int = 6,
        auxiliary_weight: float = 1.0,
        denoising_weight: float = 1.0,
    ):
        super().__init__()
        if group_reduction not in REDUCTIONS:
            raise ValueError(f"group_reduction={group_reduction!r}: one of {', '.join(REDUCTIONS)}")
        self.matcher = matcher
        self.classification = classification
        self.weights = {"class": class_weight, "l1": l1_weight, "giou": giou_weight}
        self.l1_format = check_l1_format(l1_format)
        self.group_reduction = group_reduction
        self.auxiliary_repeats = auxiliary_repeats
        self.auxiliary_weight = auxiliary_weight
        self.denoising_weight = denoising_weight

    def forward(
        self,
        predictions: Sequence[StagePrediction],
        plan: Plan,
        targets: Targets,
        proposals: StagePrediction | None = None,
        auxiliary: Sequence[StagePrediction] | None = None,
        denoising: Sequence[StagePrediction] | None = None,
        *,
        assignment: Tensor | None = None,
        classed_proposals: bool = False,
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch.

        Args:
            predictions: one per step of ``plan``, all with the same ``Q``. Their numbers of groups are multiples of
                ``plan.groups`` if the initial queries are several groups.
            plan: the plan that produced them.
            targets: the batch's objects.
            proposals: of a two-stage encoder; trained with every object as class 0, or, with ``classed_proposals``,
                as its own class.
            auxiliary: predictions of an auxiliary query set by the same plan.
            denoising: likewise of denoising queries, whose ``assignment`` ``(T,)`` is given: the query of each group
                that belongs to each object. Several initial groups are averaged.

        Returns:
            At most one scalar per loss and step: ``loss_class/stage1``, ``loss_l1/stage1``, ``loss_giou/stage1``, ...,
            ``loss_class/auxiliary_stage1``, ..., ``loss_class/denoising_stage1``, ..., and ``loss_class/proposals``,
            ... of the encoder. Their sum is the loss to minimise.

        Raises:
            UserError: see :class:`~sqr.matcher.HungarianMatcher`.
        """
        factors = self._step_factors(predictions, plan)
        denoising_factors = [] if denoising is None else self._step_factors(denoising, plan)
        supervised = [i for i, weight in enumerate(plan.loss_weights) if weight]  # the others are not matched either
        predictions, names, factors = ([x[i] for i in supervised] for x in (predictions, plan.step_names, factors))
        with without_autocast(targets.boxes):
            terms = [LossTerm(*_joint_problem(predictions, names, targets), factors)]
            if auxiliary is not None:
                repeats = self.auxiliary_repeats
                repeated = targets.repeated(repeats)
                _check_auxiliary_size(auxiliary[0].logits.shape[2], repeated, repeats)
                auxiliary, names = [auxiliary[i] for i in supervised], [f"auxiliary_{name}" for name in names]
                scaled = [self.auxiliary_weight * factor for factor in factors]
                terms.append(LossTerm(*_joint_problem(auxiliary, names, repeated), scaled, repeats))
            if proposals is not None:
                objects = targets if classed_proposals else targets.class_agnostic()
                terms.append(LossTerm(*_joint_problem([proposals], ["proposals"], objects), [1.0]))
            matches = self.matcher([term.problem for term in terms])
            if denoising is not None:
                denoising = [denoising[i] for i in supervised]
                names = [f"denoising_{plan.step_names[i]}" for i in supervised]
                scaled = [self.denoising_weight * denoising_factors[i] for i in supervised]
                terms.append(LossTerm(*_joint_problem(denoising, names, targets), scaled))
                matches.append(assignment.expand(sum(terms[-1].groups), -1))
            objects = average_over_processes(targets.totals.objects, targets.boxes.device)
            losses = {}
            for term, match in zip(terms, matches, strict=True):
                losses.update(self._step_losses(term, match, (objects * term.repeats).clamp(min=1)))
        return losses

    def _step_factors(self, predictions: Sequence[StagePrediction], plan: Plan) -> list[float]:
        """The factor of each step's sum over its groups."""
        groups = [p.logits.shape[1] for p in predictions]
        divisors = groups if self.group_reduction == "mean" else [plan.initial_groups(groups)] * plan.num_steps
        return [weight / divisor for weight, divisor in zip(plan.loss_weights, divisors, strict=True)]

    def _step_losses(self, term: LossTerm, match: Tensor, normaliser: Tensor) -> dict[str, Tensor]:
        """Reduce the losses of ``sum(groups)`` groups to one scalar per loss and step."""
        losses = {}
        for kind, values in self._group_losses(term.problem, match, normaliser).items():
            for factor, name, part in zip(term.factors, term.names, values.split(list(term.groups)), strict=True):
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
        target = targets.boxes.expand_as(boxes)
        l1 = l1_coordinates(boxes, self.l1_format) - l1_coordinates(target, self.l1_format)
        giou = generalized_iou(corners_and_area(boxes), corners_and_area(target))
        return {
            "class": self.classification.loss(
                prediction.logits, matched, targets.labels.expand_as(match), normaliser, targets.totals
            ),
            "l1": l1.abs().sum((1, 2)) / normaliser,
            "giou": (1 - giou).sum(1) / normaliser,
        }


def _joint_problem(
    predictions: Sequence[StagePrediction], names: Sequence[str], targets: Targets
) -> tuple[MatchingProblem, list[int], Sequence[str]]:
    """All steps as one problem with concatenated groups ``(B, total, Q, ...)``; groups and name of each step."""
    groups = [p.logits.shape[1] for p in predictions]
    joint = StagePrediction(
        logits=torch.cat([p.logits.float() for p in predictions], dim=1),
        boxes=torch.cat([p.boxes.float() for p in predictions], dim=1),
    )
    group_names = [f"{name}, group {i + 1} of {n}" for name, n in zip(names, groups, strict=True) for i in range(n)]
    return MatchingProblem(joint, targets, group_names), groups, names


def _check_auxiliary_size(num_queries: int, repeated: Targets, times: int) -> None:
    most = max(repeated.counts, default=0)
    if most > num_queries:
        image = repeated.image_ids[repeated.counts.index(most)]
        raise UserError(
            f"image {image} has {most // times} objects, {most} with auxiliary_repeats={times}, but the auxiliary set "
            f"has only {num_queries} queries; raise num_auxiliary to at least {most} or lower auxiliary_repeats"
        )


def average_over_processes(count: int, device: torch.device) -> Tensor:
    """A count averaged over all processes: a scalar tensor that is not read back to the host."""
    total = torch.full((), float(count), device=device)  # not torch.tensor, whose upload synchronizes with the device
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total
