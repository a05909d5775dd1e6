"""Class logits: their probabilities, matching cost and loss, in one object so that they cannot disagree."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .structures import BatchTotals


class Classification(Protocol):
    """Probabilities, matching cost and loss of class logits ``(..., C)``.

    ``C`` is ``K``, or ``K + 1`` where there is a no-object class.
    """

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., K)`` float32."""

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """``(..., Q, C)`` and ``(U,)`` class indices -> ``(..., U, Q)``, new: the cost of an object of each class."""

    def loss(
        self,
        logits: Tensor,
        matched: tuple[Tensor, Tensor, Tensor],
        labels: Tensor,
        normaliser: Tensor,
        totals: BatchTotals,
    ) -> Tensor:
        """The normalised loss of each group.

        Args:
            logits: ``(B, G, Q, C)`` float32.
            matched: image, group and query index of each matched query.
            labels: their class indices.
            normaliser: scalar, the number of objects that a box loss is divided by.
            totals: objects and images of the batch, of which these images may be a part; for losses that are
                normalised otherwise.

        Returns:
            ``(G,)``.
        """


class FocalClassification:
    """Sigmoid scores and focal loss (Lin et al., ICCV 2017), as in Deformable DETR, DAB-DETR and AdaMixer.

    Args:
        alpha: weight of positives; ``1 - alpha`` weighs negatives.
        gamma: focusing exponent.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha, self.gamma = alpha, gamma

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(..., K)`` -> ``(..., K)`` float32."""
        return logits.float().sigmoid()

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """``(..., Q, K)`` and ``(U,)`` -> ``(..., U, Q)``: focal loss as a positive less that as a negative."""
        p = logits.transpose(-1, -2).index_select(-2, classes).sigmoid_()
        other = 1 - p
        positive = (p + 1e-8).log_().mul_(-self.alpha).mul_(other**self.gamma)
        negative = other.add_(1e-8).log_().mul_(self.alpha - 1).mul_(p.pow_(self.gamma))
        return positive.sub_(negative)

    def loss(
        self,
        logits: Tensor,
        matched: tuple[Tensor, Tensor, Tensor],
        labels: Tensor,
        normaliser: Tensor,
        totals: BatchTotals,
    ) -> Tensor:
        """The sum over images, queries and classes, over the number of objects."""
        # treat all entries as negatives, then correct the matched ones: no dense targets, few tensors kept for backward
        positive = logits[(*matched, labels)]  # (G, T)
        correction = self._positive(positive) - self._negative(positive)
        return (self._negative(logits).sum((0, 2, 3)) + correction.sum(1)) / normaliser

    def _negative(self, logits: Tensor) -> Tensor:
        return (1 - self.alpha) * logits.sigmoid() ** self.gamma * F.softplus(logits)

    def _positive(self, logits: Tensor) -> Tensor:
        return self.alpha * logits.neg().sigmoid() ** self.gamma * F.softplus(-logits)


class SoftmaxClassification:
    """Softmax over the classes and a last one, "no object" (Carion et al., DETR, section 3.1).

    Args:
        no_object_weight: weight of the cross-entropy of queries that are matched to nothing (0.1 in the paper).
    """

    def __init__(self, *, no_object_weight: float = 0.1):
        self.no_object_weight = no_object_weight

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(..., K + 1)`` -> ``(..., K)`` float32: without the probability of no object."""
        return logits.float().softmax(-1)[..., :-1]

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """``(..., Q, K + 1)`` and ``(U,)`` -> ``(..., U, Q)``: the negative probability, as in the paper."""
        return logits.softmax(-1).transpose(-1, -2).index_select(-2, classes).neg_()

    def loss(
        self,
        logits: Tensor,
        matched: tuple[Tensor, Tensor, Tensor],
        labels: Tensor,
        normaliser: Tensor,
        totals: BatchTotals,
    ) -> Tensor:
        """The weighted mean of the cross-entropy over the images' queries.

        As published, the mean is weighted, so ``normaliser`` is not used. The sum of the weights follows from
        ``totals``: a group matches every object of the batch to one query.
        """
        no_object = logits.shape[-1] - 1
        target = torch.full(logits.shape[:-1], no_object, device=logits.device)
        target[matched] = labels
        weight = torch.where(target == no_object, self.no_object_weight, 1.0)  # (B, G, Q)
        loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view_as(weight)
        unmatched = totals.images * logits.shape[2] - totals.objects
        return (weight * loss).sum((0, 2)) / (totals.objects + self.no_object_weight * unmatched)
