"""Configs and trained checkpoints by name. A name is a path below ``configs/``, with or without ``.py``."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

_NOT_MODELS = ("common", "models")  # parts that configs import

# Config name to URL, or to a path below this folder, of its trained weights.
CHECKPOINTS: dict[str, str] = {}


def get_config_file(name: str) -> str:
    """The path of a shipped config, e.g. of ``quick/sqr_deformable_detr_shapes``.

    Raises:
        ValueError: there is no such config; the nearest names are given.
    """
    name = _bare(name)
    path = configs_folder() / f"{name}.py"
    if not path.is_file():
        names = config_names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
        raise ValueError(f"the model zoo has no config {name!r}; the nearest are {', '.join(near) or '(none)'}")
    return str(path)


def get_config(name: str, trained: bool = False) -> DictConfig:
    """A shipped config; with ``trained``, ``train.init_checkpoint`` is its trained checkpoint.

    Raises:
        ValueError: no such config, or ``trained`` and there is no checkpoint of it.
    """
    cfg = LazyConfig.load(get_config_file(name))
    if trained:
        cfg.train.init_checkpoint = get_checkpoint_url(name)
    return cfg


def get_checkpoint_url(name: str) -> str:
    """URL or path of a config's trained checkpoint.

    Raises:
        ValueError: no such config, or nobody has published a checkpoint of it.
    """
    get_config_file(name)
    name = _bare(name)
    if name not in CHECKPOINTS:
        known = ", ".join(sorted(CHECKPOINTS)) or "none yet"
        raise ValueError(f"the model zoo has no trained checkpoint of {name!r}; there are: {known}")
    place = CHECKPOINTS[name]
    return place if "://" in place else str(Path(__file__).parent / place)


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a shipped config, in evaluation mode if trained and as built otherwise.

    Args:
        name: of the config.
        trained: load the trained checkpoint; otherwise weights are random.
        device: the first GPU if there is one when None.

    Raises:
        ValueError: no such config, or ``trained`` and its checkpoint does not exist or does not fit.
    """
    cfg = get_config(name, trained)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = instantiate(cfg.model)
    if trained:
        from sqr.engine import load_model_weights

        load_model_weights(model, cfg.train.init_checkpoint, complete=True)
        model.eval()
    return model.to(device)


def configs_folder() -> Path:
    """``configs/`` inside the installed package, or at the root of a source checkout."""
    shipped = Path(__file__).parent / "configs"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[4] / "configs"


def config_names() -> list[str]:
    """Names of all shipped training configs, sorted."""
    root = configs_folder()
    names = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(n.as_posix() for n in names if n.parts[0] not in _NOT_MODELS)


def _bare(name: str) -> str:
    return name.removesuffix(".py")
