"""What a run takes from its recipe: how long it is in iterations, and the learning rate for another batch."""

from __future__ import annotations

import logging

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from .config import find_config

logger = logging.getLogger(__name__)


def settle_max_iter(cfg: DictConfig, num_images: int) -> None:
    """Where ``train.max_epochs`` is given, set ``train.max_iter`` from it; the schedule refers to that.

    Args:
        cfg: the whole config.
        num_images: of the training dataset, as the loader draws from it.
    """
    epochs, batch = cfg.train.get("max_epochs"), cfg.dataloader.train.total_batch_size
    if epochs is not None:
        cfg.train.max_iter = max(1, round(epochs * num_images / batch))
    logger.info(
        "%d iterations of %d images: %.4g epochs of the %d training images, %.4g iterations each",
        cfg.train.max_iter, batch, cfg.train.max_iter * batch / num_images, num_images, num_images / batch,
    )  # fmt: skip


def learning_rate_advice(cfg: DictConfig, config_file: str) -> str:
    """A warning where the batch is not the recipe's and the learning rate still is; empty otherwise.

    The suggestion is the linear scaling rule (Goyal et al., "Accurate, Large Minibatch SGD", 2017).

    Args:
        cfg: the run's config, overrides applied.
        config_file: the recipe: path or model-zoo name.
    """
    recipe = LazyConfig.load(find_config(config_file))
    batches = [c.dataloader.train.get("total_batch_size") for c in (recipe, cfg)]
    rates = [c.optimizer.get("lr") for c in (recipe, cfg)]
    if None in (*batches, *rates) or batches[0] == batches[1] or rates[0] != rates[1]:
        return ""
    return (
        f"The batch is {batches[1]} images, the recipe's is {batches[0]}, and optimizer.lr={rates[1]:g} is for that. "
        f"Suggested: optimizer.lr={rates[1] * batches[1] / batches[0]:.3g} (linear scaling), or keep the batch and "
        "feed it in parts with train.accumulation_steps"
    )
