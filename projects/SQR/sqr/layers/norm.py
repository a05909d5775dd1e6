"""Normalisation that detectors need beyond PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedStatsBatchNorm(nn.Module):
    """Batch norm with pretrained, fixed statistics and a *trainable* scale and shift (mmdet's ``norm_eval=True``).

    Detectron2's ``FrozenBN`` fixes scale and shift too. State dicts of the two are interchangeable.

    Args:
        num_features: channels.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, h, w)``."""
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
