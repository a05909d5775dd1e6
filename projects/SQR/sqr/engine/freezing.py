"""Modules that are not trained: ``train.freeze``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from ..errors import UserError

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude modules from training, and keep the statistics of their batch norms.

    Args:
        model: its parameters' ``requires_grad`` is changed. Dropout inside frozen modules stays active.
        patterns: each one or more complete components of a module's or a parameter's dotted name: ``backbone``,
            ``encoder.neck``, ``stages.0``.

    Raises:
        UserError: a pattern matches no parameter.
    """
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        named = [p for name, p in model.named_parameters() if f".{pattern}." in f".{name}."]
        if not named:
            children = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"train.freeze: no module is named {pattern!r}; this model has {children} and their parts")
        for parameter in named:
            parameter.requires_grad_(False)
        for name, module in model.named_modules():
            if f".{pattern}." in f".{name}." and isinstance(module, nn.modules.batchnorm._NormBase):
                module.register_forward_pre_hook(_stay_in_evaluation)
        logger.info("Frozen by train.freeze: %s, %d tensors", pattern, len(named))


def _stay_in_evaluation(module: nn.Module, inputs: tuple) -> None:
    """A forward pre-hook that keeps a frozen batch norm in evaluation mode, whatever ``model.train()`` has set."""
    module.training = False
