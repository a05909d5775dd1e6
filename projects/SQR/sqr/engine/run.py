"""What ``train_net.py`` does: train, resume, evaluate."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from .checkpointer import Checkpointer
from .distributed import create_ddp_model, resolve_device, unwrap
from .errors import TrainingInterrupted, UserError, as_user_error
from .model_weights import load_model_weights
from .train_loader import TrainLoader
from .trainer import Trainer, TrainingStopped
from .writers import default_writers, write_results

logger = logging.getLogger(__name__)


class BaseLRScheduler(hooks.LRScheduler):
    """Detectron2's hook, reporting the highest learning rate rather than that of the largest group.

    With a multiplier on the backbone the largest group may be the backbone, and the logged rate a tenth of
    ``optimizer.lr``.
    """

    def before_train(self) -> None:
        super().before_train()
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._best_param_group_id = rates.index(max(rates))


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    """Evaluate on ``cfg.dataloader.test`` and log Detectron2's tables and copy-paste lines.

    Returns:
        Task to metric to value on the main process; empty on the others, or without a
        ``dataloader.evaluator``.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("Nothing to evaluate: the config has no dataloader.evaluator")
        return {}
    with as_user_error(ValueError, OSError, prefix="dataloader.test: "):
        loader = instantiate(cfg.dataloader.test)
        evaluator = instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(unwrap(model), loader, evaluator)
    if comm.is_main_process() and results:
        print_csv_format(results)
    return results


def build_model(cfg: DictConfig) -> nn.Module:
    """The config's model on ``train.device``."""
    device = resolve_device(cfg.train.device)
    with as_user_error(ValueError, prefix="model: "):
        model = instantiate(cfg.model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info("%s: %.2f M parameters, %.2f M trainable", type(model).__name__, total / 1e6, trainable / 1e6)
    return model.to(device)


def build_trainer(cfg: DictConfig, model: nn.Module) -> Trainer:
    """Trainer, optimizer and training data of a config, for a model on its device, wrapped or not."""
    cfg.optimizer.params.model = unwrap(model)
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.model = None
    with as_user_error(ValueError, OSError, prefix="dataloader.train: "):
        loader = instantiate(cfg.dataloader.train)
    if not isinstance(loader, TrainLoader):
        raise UserError(
            f"dataloader.train makes a {type(loader).__name__}; exact resume needs "
            "sqr.engine.build_train_loader, which takes the arguments of "
            "Detectron2's build_detection_train_loader"
        )
    amp, clip = cfg.train.amp, cfg.train.clip_grad
    return Trainer(
        model,
        loader,
        optimizer,
        seed=cfg.train.seed,
        max_grad_norm=clip.max_norm,
        norm_type=clip.norm_type,
        amp_dtype=_amp_dtype(amp.dtype) if amp.enabled else None,
    )


def train(cfg: DictConfig, args: argparse.Namespace, do_test: Callable[[DictConfig, nn.Module], dict]) -> dict:
    """Train from ``train.init_checkpoint``, or go on with the last checkpoint if ``args.resume``.

    Args:
        cfg: a config that :func:`sqr.engine.load_config` returned.
        args: with ``resume``.
        do_test: called with the config and the model at each evaluation.

    Returns:
        The last evaluation's results.

    Raises:
        TrainingInterrupted: stopped by a signal; a checkpoint was saved.
    """
    model = create_ddp_model(build_model(cfg), **cfg.train.ddp)
    trainer = build_trainer(cfg, model)
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer)
    results: dict = {}

    def run_evaluation() -> dict:
        with trainer.interruptible():
            results.clear()
            results.update(do_test(cfg, model))
        return results

    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            BaseLRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(cfg.train.eval_period, run_evaluation),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), period=cfg.train.log_period)
            if main
            else None,
        ]
    )
    start_iter = _load(cfg, args, model, trainer, checkpointer)
    if start_iter >= cfg.train.max_iter:
        logger.info("Training is complete: %d of %d iterations", start_iter, cfg.train.max_iter)
        return do_test(cfg, model)
    try:
        trainer.train(start_iter, cfg.train.max_iter)
    except TrainingStopped as stop:
        raise _interrupted(stop, trainer, checkpointer) from None
    return results


def _load(
    cfg: DictConfig, args: argparse.Namespace, model: nn.Module, trainer: Trainer, checkpointer: Checkpointer
) -> int:
    """Load what the run starts from and return its first iteration."""
    if args.resume and checkpointer.has_checkpoint():
        checkpointer.resume()
        logger.info("Going on after iteration %d", trainer.iter)
        return trainer.iter + 1
    if args.resume:
        logger.info("No checkpoint in %s: starting from the beginning", cfg.train.output_dir)
    load_model_weights(model, cfg.train.init_checkpoint, modules=list(cfg.train.get("init_modules", [])))
    return 0


def _interrupted(stop: TrainingStopped, trainer: Trainer, checkpointer: Checkpointer) -> TrainingInterrupted:
    done = trainer.iter + 1
    if done < trainer.max_iter:
        checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
        comm.synchronize()  # no process leaves before the checkpoint is there
        text = f"{stop} after {done} of {trainer.max_iter} iterations; saved. "
        text += "Go on with the same command and --resume"
    else:
        text = f"{stop} during the last evaluation; training is complete. Run it again with --eval-only"
    return TrainingInterrupted(text, stop.signal_number)


def run_eval_only(cfg: DictConfig, do_test: Callable[[DictConfig, nn.Module], dict]) -> dict:
    """Evaluate ``train.init_checkpoint`` and add the results to ``OUTPUT/metrics.json``.

    Raises:
        UserError: no checkpoint is given, or it does not hold the whole model.
    """
    if not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs the weights to evaluate: train.init_checkpoint=PATH")
    model = build_model(cfg)
    load_model_weights(model, cfg.train.init_checkpoint, complete=True)
    results = do_test(cfg, model)
    if comm.is_main_process() and results:
        write_results(results, cfg.train.output_dir, checkpoint=cfg.train.init_checkpoint)
    return results


def _amp_dtype(name: str) -> torch.dtype:
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise UserError(f"train.amp.dtype={name}: must be one of {', '.join(dtypes)}")
    return dtypes[name]
