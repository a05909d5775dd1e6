"""Initial weights that published detectors share."""

from __future__ import annotations

from torch import nn


def xavier_uniform_all(module: nn.Module) -> None:
    """Xavier-uniform for every matrix of a module, including packed projections, as in DETR's transformer.

    Vectors (biases, norms, PReLU) are not changed.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
