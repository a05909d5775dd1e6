"""Configs and models of the zoo by name, with Detectron2's function names."""

from __future__ import annotations

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

from ..catalog import get_checkpoint_url, get_config_file
from ..checkpoint.loading import load_model_weights
from ..config import default_device
from ..data import resolve_num_classes


def get_config(name: str, trained: bool = False) -> DictConfig:
    """A shipped config; with ``trained``, ``train.init_checkpoint`` is its trained checkpoint.

    Raises:
        ValueError: no such config, or ``trained`` without a checkpoint of it.
    """
    cfg = LazyConfig.load(get_config_file(name))
    if trained:
        cfg.train.init_checkpoint = get_checkpoint_url(name)
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a shipped config, in evaluation mode if trained and as built otherwise.

    Args:
        name: of the config.
        trained: load the trained checkpoint; otherwise weights are random.
        device: the first GPU if there is one when None.

    Raises:
        ValueError: no such config, one whose classes depend on data that is not given, or ``trained`` and its
            checkpoint does not exist or does not fit.
    """
    cfg = get_config(name, trained)
    resolve_num_classes(cfg, check_files=False)
    device = device or default_device()
    model = instantiate(cfg.model)
    if trained:
        load_model_weights(model, cfg.train.init_checkpoint, complete=True)
        model.eval()
    return model.to(device)
