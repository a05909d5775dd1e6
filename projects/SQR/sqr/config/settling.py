"""From a config's name to the settled config of a run: the one place where a config is completed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..data import check_queries, most_objects, resolve_num_classes
from ..distributed import resolve_device
from ..errors import UsageError, UserError, as_user_error, one_line
from .loading import editable, find_config, load_config, name_zoo_checkpoint, read_config
from .overrides import apply_overrides

logger = logging.getLogger(__name__)

COCO_CLASSES = 80


def load_run_config(
    config: str | DictConfig,
    overrides: Sequence[str] = (),
    *,
    training: bool = False,
    needs_data: bool = True,
    device: str | None = None,
    init_checkpoint: str | None = None,
) -> DictConfig:
    """Load, complete and check a config; the result is read-only (:func:`sqr.config.editable` copies it).

    In addition to :func:`sqr.config.load_config`, this sets ``data.num_classes`` and ``data.class_names``
    (from the data), ``train.device``, and for a training ``train.seed`` and ``train.max_iter`` (from
    ``train.max_epochs``).

    Args:
        config: a file, a name of the model zoo, or a loaded config, which is copied.
        overrides: ``key=value`` pairs.
        training: also set and check what only a training needs.
        needs_data: whether the config's data must exist. Otherwise the number of classes comes from the data's
            metadata, or is COCO's 80 if the config names no data.
        device: takes precedence over ``train.device``.
        init_checkpoint: takes precedence over ``train.init_checkpoint``; ``zoo`` is the config's own.

    Raises:
        UsageError: the config cannot be loaded, or a value in it is wrong.
        UserError: the data does not exist or does not fit the config.
    """
    with _sections_as_expected(config):
        if isinstance(config, DictConfig):
            cfg, name = apply_overrides(editable(config), overrides), ""
        else:
            cfg, name = load_config(config, overrides), config
        if device is not None:
            cfg.train.device = device
        if init_checkpoint is not None:
            cfg.train.init_checkpoint = init_checkpoint
            name_zoo_checkpoint(cfg, name)
        resolve_device(cfg.train.device)
        if cfg.get("data") is not None:
            _follow_the_data(cfg, overrides)
            if not needs_data and _names_no_data(cfg):
                cfg.data.num_classes = COCO_CLASSES if cfg.data.num_classes is None else cfg.data.num_classes
            elif needs_data or cfg.data.num_classes is None:
                with as_user_error(ValueError, OSError):
                    resolve_num_classes(cfg, check_files=needs_data)
                    if training:
                        check_queries(cfg)
                    settle_max_detections(cfg)
        if training:
            cfg.train.seed = resolve_seed(cfg.train.seed)
            cfg.train.max_iter = settled_max_iter(cfg)
            if cfg.train.get("max_epochs") is not None:
                cfg.train.max_epochs = None  # the saved config states one length
    OmegaConf.set_readonly(cfg, True)
    return cfg


@contextmanager
def _sections_as_expected(config: str | DictConfig) -> Iterator[None]:
    """Turn errors such as text in place of a section into one line."""
    try:
        yield
    except UserError:
        raise
    except (OmegaConfBaseException, AttributeError, TypeError, KeyError) as error:
        name = config if isinstance(config, str) else "the config"
        raise UsageError(
            f"{name}: a key is missing or of another kind than expected: {one_line(error)[:300]}"
        ) from error


def _follow_the_data(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let the data determine the number of classes if overrides name the data but not the number.

    A trained model's config lists the class names; they stay, and are compared with the data.
    """
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    named = any(key == "data.root" or key.endswith((".annotations", ".name")) for key in keys)
    if named and "data.num_classes" not in keys and cfg.data.get("class_names") is None:
        cfg.data.num_classes = None


def settle_max_detections(cfg: DictConfig) -> None:
    """Choose ``data.max_dets_per_image``, if null, and the minimum of ``model.postprocessor.topk`` from the data.

    COCO's 100 is enough for up to 100 objects per image. Beyond that it is 1.5 times the objects of the fullest image,
    rounded up to a multiple of 100, since a detector needs more detections than there are objects.
    """
    if "max_dets_per_image" not in cfg.data:
        return
    objects = most_objects(cfg)
    if cfg.data.max_dets_per_image is None:
        if objects <= 100:
            return
        cfg.data.max_dets_per_image = math.ceil(1.5 * objects / 100) * 100
    wanted = cfg.data.max_dets_per_image
    logger.info("An image has up to %d objects: AP counts %d detections of it (COCO: 100)", objects, wanted)
    postprocessor = cfg.model.get("postprocessor")
    if postprocessor is not None and postprocessor.get("topk", wanted) < wanted:
        logger.info("model.postprocessor.topk is raised from %d to %d", postprocessor.topk, wanted)
        postprocessor.topk = wanted


def default_device() -> str:
    """The first GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_seed(seed: int | None) -> int:
    """Return the seed; None or a negative one is replaced by one from the system, shared by all processes."""
    if seed is None or seed < 0:
        return int(comm.shared_random_seed())
    return int(seed)


def settled_max_iter(cfg: DictConfig, num_images: int | None = None) -> int:
    """Iterations of a training: ``train.max_iter``, or ``train.max_epochs`` passes over the training images.

    Args:
        cfg: the whole config.
        num_images: of the training dataset; counted when None and needed.

    Raises:
        UsageError: the length is in epochs and ``dataloader.train`` has no ``dataset``.
        UserError: the dataset cannot be loaded.
    """
    epochs = cfg.train.get("max_epochs")
    if epochs is None:
        return cfg.train.max_iter
    if num_images is None:
        if cfg.dataloader.train.get("dataset") is None:
            raise UsageError("train.max_epochs needs dataloader.train.dataset to count images; set train.max_iter")
        with as_user_error(ValueError, OSError, prefix="dataloader.train: "):
            num_images = len(instantiate(cfg.dataloader.train.dataset))
    return max(1, round(epochs * num_images / cfg.dataloader.train.total_batch_size))


def learning_rate_advice(cfg: DictConfig, config_file: str) -> str:
    """Return a warning if the batch differs from the recipe's and the learning rate does not, else an empty string.

    The suggestion is the linear scaling rule (Goyal et al., "Accurate, Large Minibatch SGD", 2017).

    Args:
        cfg: the run's config, overrides applied.
        config_file: the recipe: path or model-zoo name.
    """
    recipe = read_config(find_config(config_file))
    batches = [c.dataloader.train.get("total_batch_size") for c in (recipe, cfg)]
    rates = [c.optimizer.get("lr") for c in (recipe, cfg)]
    if None in (*batches, *rates) or batches[0] == batches[1] or rates[0] != rates[1]:
        return ""
    return (
        f"The batch is {batches[1]} images, the recipe's is {batches[0]}, and optimizer.lr={rates[1]:g} is for that. "
        f"Suggested: optimizer.lr={rates[1] * batches[1] / batches[0]:.3g} (linear scaling), or keep the batch and "
        "feed it in parts with train.accumulation_steps"
    )


def _names_no_data(cfg: DictConfig) -> bool:
    train = cfg.data.train
    return train.name is None and train.annotations is None and cfg.data.get("root") is None
