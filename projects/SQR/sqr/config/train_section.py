"""Checks of ``cfg.train``, so that wrong values fail before anything is loaded instead of deep inside a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from ..errors import UsageError

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# Minimum of integer keys; keys that are absent or null are not checked.
_AT_LEAST = {
    "max_iter": 1,
    "log_period": 1,
    "eval_period": 0,
    "checkpointer.period": 1,
    "accumulation_steps": 1,
    "early_stopping.patience": 1,
    "eval_images": 0,
}
_NEEDED = ("log_period", "eval_period", "checkpointer.period")


def prefer_overridden_length(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Given ``train.max_iter`` or ``train.max_epochs`` on the command line, clear the other in the config."""
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    lengths = ("train.max_iter", "train.max_epochs")
    for key, other in (lengths, lengths[::-1]):
        if key in given and other not in given and _get(cfg, key.removeprefix("train.")) is not None:
            cfg.train[other.removeprefix("train.")] = None


def check_train_section(cfg: DictConfig) -> None:
    """Check the values of ``cfg.train``.

    Raises:
        UsageError: a value out of range, or two that contradict each other.
    """
    _check_length(cfg)
    for key, least in _AT_LEAST.items():
        value = _get(cfg, key)
        if value is None and key not in _NEEDED:
            continue
        if type(value) is not int or value < least:
            raise UsageError(f"train.{key}={value}: must be a whole number, at least {least}")
    for key in ("clip_grad.max_norm", "clip_grad.norm_type", "early_stopping.min_delta"):
        value = _get(cfg, key)
        if value is not None and (type(value) not in (int, float) or math.isnan(value) or value < 0):
            raise UsageError(f"train.{key}={value}: must be a number, at least 0")
    _check_amp(cfg)
    for key in ("best_checkpoint.mode", "early_stopping.mode"):
        if _get(cfg, key) not in ("max", "min", None):
            raise UsageError(f"train.{key}={_get(cfg, key)}: must be max or min")
    if _get(cfg, "early_stopping.patience") is not None and not cfg.train.eval_period:
        raise UsageError("train.early_stopping.patience counts evaluations, but train.eval_period=0; set a period")


def _check_length(cfg: DictConfig) -> None:
    max_iter, max_epochs = _get(cfg, "max_iter"), _get(cfg, "max_epochs")
    if max_iter is not None and max_epochs is not None:
        raise UsageError(f"train.max_iter={max_iter} and train.max_epochs={max_epochs} are both set; set one to null")
    if max_iter is None and max_epochs is None:
        raise UsageError("train.max_iter and train.max_epochs are both null; set one of them")
    if max_epochs is not None and (type(max_epochs) not in (int, float) or max_epochs <= 0):
        raise UsageError(f"train.max_epochs={max_epochs}: must be a positive number")


def _check_amp(cfg: DictConfig) -> None:
    dtype = _get(cfg, "amp.dtype")
    if dtype not in AMP_DTYPES:
        raise UsageError(f"train.amp.dtype={dtype}: must be one of {', '.join(AMP_DTYPES)}")
    if cfg.train.amp.enabled and dtype == "float16" and not str(cfg.train.device).startswith("cuda"):
        raise UsageError(
            f"train.amp.dtype=float16 needs a GPU (train.device={cfg.train.device}); use train.amp.dtype=bfloat16"
        )


def _get(cfg: DictConfig, key: str) -> Any:
    value: Any = cfg.train
    for part in key.split("."):
        if value is None:
            return None
        value = value.get(part)
    return value
