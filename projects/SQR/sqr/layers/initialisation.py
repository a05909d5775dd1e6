"""Initial weights that published detectors share."""

from __future__ import annotations

from torch import nn


def xavier_uniform_all(module: nn.Module) -> None:
    """Xavier-uniform for every matrix of a module, packed projections included, as DETR's transformer starts.

    Vectors (biases, norms, PReLU) keep what they have.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
