"""Normalisation layers beyond PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics can exclude padding. State dicts are those of ``nn.GroupNorm``."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: ``(B, C, h, w)``.
            padding_mask: ``(B, h, w)`` bool, True where padded; None includes every pixel.

        Returns:
            ``(B, C, h, w)``, zero where padded; float32 for lower precision, as in PyTorch under autocast.
        """
        if padding_mask is None:
            return super().forward(x)
        valid = (~padding_mask)[:, None, None]  # (B, 1, 1, h, w)
        grouped = (x if x.dtype == torch.float64 else x.float()).unflatten(1, (self.num_groups, -1))
        pixels = valid.sum((2, 3, 4), keepdim=True) * grouped.shape[2]
        mean = (grouped * valid).sum((2, 3, 4), keepdim=True) / pixels
        centred = (grouped - mean) * valid
        variance = centred.square().sum((2, 3, 4), keepdim=True) / pixels
        normalised = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        return torch.addcmul(self.bias[:, None, None], normalised, self.weight[:, None, None]) * valid[:, 0]


class FixedStatsBatchNorm(nn.Module):
    """Batch norm with pretrained, fixed statistics and a *trainable* scale and shift (mmdet's ``norm_eval=True``).

    Detectron2's ``FrozenBN`` also fixes scale and shift. Their state dicts are interchangeable.

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
