"""How class logits are scored, matched and trained.

One object answers all three questions, so that cost, loss and probability can't disagree.
"""

from __future__ import annotations

from fvcore.nn import sigmoid_focal_loss
from torch import Tensor


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

    def cost(self, logits: Tensor) -> Tensor:
        """``(..., K)`` -> what assigning an object of each class would cost (official HungarianMatcher)."""
        p = logits.sigmoid()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        positive = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        return positive - negative

    def loss(self, logits: Tensor, matched: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
        """Sum over images, queries and classes.

        Args:
            logits: ``(B, G, Q, K)`` float32.
            matched: image, group and query index of each matched query.
            labels: their class indices.

        Returns:
            ``(G,)``.
        """
        target = logits.new_zeros(logits.shape)
        target[(*matched, labels)] = 1
        loss = sigmoid_focal_loss(logits, target, alpha=self.alpha, gamma=self.gamma, reduction="none")
        return loss.sum((0, 2, 3))
