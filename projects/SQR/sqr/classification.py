"""Class logits: their probabilities, matching cost and loss, in one object so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .structures import BatchTotals

# Logits per block of the focal loss: sized for a CPU's cache, or for a GPU's memory.
_ELEMENTS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 24}


class Classification(Protocol):
    """Probabilities, matching cost and loss of class logits ``(..., C)``.

    ``C`` is ``K``, or ``K + 1`` with a no-object class.
    """

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., K)`` float32."""

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """``(..., Q, C)`` and ``(U,)`` class indices -> a new ``(..., U, Q)``: the cost of an object of each class."""

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
            totals: objects and images of the whole batch, of which these images may be a part; for losses with a
                different normalisation.

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
        """``(..., Q, K)`` and ``(U,)`` -> ``(..., U, Q)``: focal loss as a positive minus that as a negative."""
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
        return (self._negatives(logits) + correction.sum(1)) / normaliser

    def _negatives(self, logits: Tensor) -> Tensor:
        """``(B, G, Q, K)`` -> ``(G,)``: the loss of all entries as negatives."""
        if torch.compiler.is_compiling():  # the compiler fuses it
            return self._negative(logits).sum((0, 2, 3))
        sums = _FocalNegatives.apply(logits.flatten(0, 1).flatten(1), self.gamma)  # (B * G,)
        return (1 - self.alpha) * sums.view(logits.shape[:2]).sum(0)

    def _negative(self, logits: Tensor) -> Tensor:
        return (1 - self.alpha) * logits.sigmoid() ** self.gamma * F.softplus(logits)

    def _positive(self, logits: Tensor) -> Tensor:
        return self.alpha * logits.neg().sigmoid() ** self.gamma * F.softplus(-logits)


class _FocalNegatives(torch.autograd.Function):
    """Sums of ``p ** gamma * softplus(x)`` over the rows of ``(R, N)`` logits, ``p`` their sigmoid; returns ``(R,)``.

    The forward pass also computes the gradient, in cache-sized blocks. It needs memory only for the logits and the
    gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.gamma = gamma
        sums, ctx.gradient = _focal_negatives(logits, gamma)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # a second backward pass through a retained graph: the first one has consumed the gradient
            _, gradient = _focal_negatives(logits, ctx.gamma)
        return gradient.mul_(grad[:, None]), None


def _focal_negatives(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The sums ``(R,)`` and the gradient ``(R, N)`` of each row's sum."""
    sums, gradient = logits.new_zeros(len(logits)), torch.empty_like(logits)
    for rows, columns in _blocks(logits):
        x = logits[rows, columns]
        p, log = x.sigmoid(), F.softplus(x)
        power = p * p if gamma == 2 else p**gamma
        sums[rows] += (power * log).sum(1)
        # d/dx p**gamma * softplus(x) = p**gamma * (gamma * (1 - p) * softplus(x) + p)
        inner = torch.addcmul(p, log, 1 - p, value=gamma)
        torch.mul(power, inner, out=gradient[rows, columns])
    return sums, gradient


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Indices of blocks of a matrix: several whole rows, or a part of one."""
    rows, columns = x.shape
    at_once = _ELEMENTS_AT_ONCE.get(x.device.type, _ELEMENTS_AT_ONCE["cuda"])
    height, width = max(1, at_once // max(columns, 1)), min(columns, at_once)
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            yield slice(i, i + height), slice(j, j + width)


class SoftmaxClassification:
    """Softmax over the classes and a last one, "no object" (Carion et al., DETR, section 3.1).

    Args:
        no_object_weight: weight of the cross-entropy of unmatched queries (0.1 in the paper).
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

        As published, this is a weighted mean, so ``normaliser`` is not used. The sum of the weights follows from
        ``totals``, since a group matches every object of the batch to one query.
        """
        no_object = logits.shape[-1] - 1
        target = torch.full(logits.shape[:-1], no_object, device=logits.device)
        target[matched] = labels
        weight = torch.where(target == no_object, self.no_object_weight, 1.0)  # (B, G, Q)
        loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view_as(weight)
        unmatched = totals.images * logits.shape[2] - totals.objects
        return (weight * loss).sum((0, 2)) / (totals.objects + self.no_object_weight * unmatched)
