"""Loads an optimizer's state by parameter names, with the config's settings and groups."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

logger = logging.getLogger(__name__)

_SCHEDULED = ("params", "lr", "initial_lr")


def check_settings(optimizer: torch.optim.Optimizer) -> None:
    """Reject learning rates and weight decays that are negative or not finite.

    Raises:
        UserError: the first such value.
    """
    for group in optimizer.param_groups:
        for key in ("lr", "weight_decay"):
            value = group.get(key, 0.0)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"optimizer: {key}={value} of a parameter group; must be a finite number, at least 0")


def names_of_groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """The names of each group's parameters, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def restore(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], saved_names: list[list[str]] | None, model: nn.Module
) -> None:
    """Load a checkpoint's state (moments, step counts) and keep the optimizer's settings, which are the config's.

    Learning rates, weight decays, betas and multipliers of the config apply, and groups may differ from the
    checkpoint's; changes are logged.

    Args:
        optimizer: built from the config.
        saved: its ``state_dict`` in the checkpoint.
        saved_names: the result of :func:`names_of_groups` when it was saved; None for checkpoints of older versions,
            whose groups must equal the config's.
        model: whose parameters it updates.

    Raises:
        UserError: the checkpoint is of a different optimizer class, or of other trainable parameters.
    """
    own_names = names_of_groups(optimizer, model)
    old_sizes = [len(group["params"]) for group in saved["param_groups"]]
    if saved_names is None:
        if old_sizes != [len(names) for names in own_names]:
            raise UserError(
                f"the checkpoint's optimizer has parameter groups of {old_sizes} parameters, the config's of "
                f"{[len(names) for names in own_names]}, and it does not name them: keep optimizer.params as it was"
            )
        saved_names = own_names
    elif [len(names) for names in saved_names] != old_sizes:
        raise ValueError("its parameter names do not fit its parameter groups")
    _check_kind(optimizer, saved)
    place = {name: index for group, names in zip(saved["param_groups"], saved_names, strict=True)
             for index, name in zip(group["params"], names, strict=True)}  # fmt: skip
    own = [name for names in own_names for name in names]
    if set(own) != set(place):
        new, gone = sorted(set(own) - set(place)), sorted(set(place) - set(own))
        raise UserError(
            f"the config trains other parameters than the checkpoint ({len(new)} new: {', '.join(new[:2])}; "
            f"{len(gone)} no longer: {', '.join(gone[:2])}); start a new run from it with train.init_checkpoint"
        )
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    state = {}
    for index, name in enumerate(own):
        entry = saved["state"].get(place[name])
        if entry is None:
            continue
        if any(isinstance(value, Tensor) and value.ndim and value.shape != shapes[name] for value in entry.values()):
            raise ValueError(f"the state of {name} has another shape than the parameter")
        state[index] = entry
    _log_changes(optimizer, own_names, saved, saved_names)
    full = optimizer.state_dict()
    for group in full["param_groups"]:
        group["initial_lr"] = group["lr"]  # the base rate of the schedule
    optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})


def _check_kind(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    kinds = [set(group) - set(_SCHEDULED) for group in (*saved["param_groups"], *optimizer.param_groups)]
    old, own = set.union(*kinds[: len(saved["param_groups"])]), set.union(*kinds[len(saved["param_groups"]) :])
    if not {"betas", "momentum"} & old == {"betas", "momentum"} & own:
        raise UserError(
            f"the checkpoint is of another kind of optimizer (settings {', '.join(sorted(old))}); resume with the one "
            "it was trained with, or start a new run from it with train.init_checkpoint"
        )


def _log_changes(
    optimizer: torch.optim.Optimizer, own_names: list[list[str]], saved: Mapping[str, Any], saved_names: list[list[str]]
) -> None:
    def by_name(groups: Any, names: list[list[str]], key: str) -> dict[str, Any]:
        return {n: group.get(key) for group, own in zip(groups, names, strict=True) for n in own}

    for key in ("lr", "weight_decay", "betas", "momentum"):
        old = by_name(saved["param_groups"], saved_names, "initial_lr" if key == "lr" else key)
        own = by_name(optimizer.param_groups, own_names, key)
        pairs = {(str(old[n]), str(own[n])) for n in own if _plain(old[n]) != _plain(own[n])}
        if pairs:
            shown = ", ".join(f"{a} to {b}" for a, b in sorted(pairs)[:4])
            logger.warning("Resuming with another %s than the checkpoint's: %s", key, shown)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value
