"""What ``train_net.py`` does: build, train or resume, evaluate only."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint.checkpointer import BestCheckpointer, Checkpointer
from ..checkpoint.loading import load_model_weights
from ..config import editable
from ..config.train_section import AMP_DTYPES
from ..distributed import create_ddp_model, resolve_device, unwrap
from ..errors import UserError, as_user_error
from ..evaluation.validation_pictures import ValidationPictures
from .ema import EMAHook, ModelEMA
from .evaluation_hooks import BestCheckpoint, EarlyStopping, EvaluationHistory, EvaluationHook
from .freezing import freeze
from .optimizer_state import check_settings
from .progress import ProgressLine
from .run_folder import FolderCheck, locked
from .saving import run_and_save
from .startup import class_names, describe, record_config
from .train_loader import ForeignLoader, TrainLoader
from .trainer import Trainer
from .wandb_writer import WandbWriter
from .writers import MetricsHook, default_writers, write_results

logger = logging.getLogger(__name__)


class BaseLRScheduler(hooks.LRScheduler):
    """Detectron2's hook, reporting the highest learning rate rather than that of the largest group.

    With a multiplier on the backbone, the largest group may be the backbone, whose rate is a tenth of
    ``optimizer.lr``.
    """

    def before_train(self) -> None:
        super().before_train()
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._best_param_group_id = rates.index(max(rates))


def build_model(cfg: DictConfig) -> nn.Module:
    """The config's model on ``train.device``."""
    device = resolve_device(cfg.train.device)
    with as_user_error(ValueError, prefix="model: "):
        model = instantiate(cfg.model)
    freeze(model, cfg.train.get("freeze") or [])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info("%s: %.2f M parameters, %.2f M trainable", type(model).__name__, total / 1e6, trainable / 1e6)
    zeroer = getattr(model, "padding_zeroer", None)
    if zeroer is not None:
        zeroer.warn_of_leak(model.backbone)
    return model.to(device)


def load_model(cfg: DictConfig) -> nn.Module:
    """The config's model on ``train.device`` with the weights of ``train.init_checkpoint``, which must be complete.

    Raises:
        UserError: the weights cannot be read or do not fit.
    """
    model = build_model(cfg)
    load_model_weights(model, cfg.train.init_checkpoint, complete=True, class_names=class_names(cfg))
    return model


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer over the parameters of a model, wrapped or not."""
    cfg = editable(cfg)
    cfg.optimizer.params.model = unwrap(model)
    with as_user_error(ValueError, TypeError, prefix="optimizer: "):
        optimizer = instantiate(cfg.optimizer)
    check_settings(optimizer)
    return optimizer


def build_trainer(cfg: DictConfig, model: nn.Module) -> Trainer:
    """Trainer, optimizer and training data of a config, for a model on its device, wrapped or not."""
    optimizer = build_optimizer(cfg, model)
    with as_user_error(ValueError, OSError, prefix="dataloader.train: "):
        loader = instantiate(cfg.dataloader.train)
    if not isinstance(loader, TrainLoader):
        batch = cfg.dataloader.train.get("total_batch_size")
        if not isinstance(batch, int):
            raise UserError(
                f"dataloader.train makes a {type(loader).__name__} and says no total_batch_size; "
                "add it as an argument, or use sqr.engine.build_train_loader"
            )
        loader = ForeignLoader(loader, total_batch_size=batch)
    amp, clip = cfg.train.amp, cfg.train.clip_grad
    return Trainer(
        model,
        loader,
        optimizer,
        seed=cfg.train.seed,
        max_grad_norm=clip.max_norm,
        norm_type=clip.norm_type,
        amp_dtype=AMP_DTYPES[amp.dtype] if amp.enabled else None,
        accumulation_steps=cfg.train.get("accumulation_steps", 1),
    )


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook, whose ``max_to_keep`` also counts checkpoints that a resumed run finds in the folder.

    An older checkpoint is deleted only after an iteration with the newer one's weights gave a finite loss.
    """

    def before_train(self) -> None:
        super().before_train()
        self._keep, self.max_to_keep = self.max_to_keep, None

    def after_step(self) -> None:
        self._delete_old()
        super().after_step()

    def after_train(self) -> None:
        super().after_train()
        if self.trainer.iter >= self.trainer.max_iter:
            self._delete_old()

    def _delete_old(self) -> None:
        if self._keep is not None:
            for path in self.checkpointer.numbered(until=self.trainer.completed)[: -self._keep]:
                Path(path).unlink(missing_ok=True)


def train(cfg: DictConfig, args: argparse.Namespace, do_test: Callable[[DictConfig, nn.Module], dict]) -> dict:
    """Train from ``train.init_checkpoint``, or resume from the last checkpoint if ``args.resume``.

    Args:
        cfg: a config that :func:`sqr.config.load_run_config` returned, with ``training``.
        args: with ``resume``.
        do_test: called with the config and the model at each evaluation.

    Returns:
        The last evaluation's results.

    Raises:
        TrainingInterrupted: stopped by a signal; a checkpoint was saved.
        UserError: another process trains into the folder, or another error ended the training; completed work is
            saved if possible.
    """
    with locked(cfg.train.output_dir) if comm.is_main_process() else nullcontext() as lock:
        return _train(cfg, args, do_test, lock)


def _train(
    cfg: DictConfig, args: argparse.Namespace, do_test: Callable[[DictConfig, nn.Module], dict], lock: int | None
) -> dict:
    model = create_ddp_model(build_model(cfg), **cfg.train.ddp)
    trainer = build_trainer(cfg, model)
    _log_length(cfg, trainer.data_loader)
    ema = build_ema(cfg, model)
    averaged = {} if ema is None else {"ema": ema}
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer, **averaged)
    history = EvaluationHistory(cfg.train.output_dir)
    stopping = _early_stopping(cfg, history)
    results: dict = {}
    pictures = ValidationPictures(cfg, count=cfg.train.get("eval_images", 0) if comm.is_main_process() else 0)

    def run_evaluation() -> dict:
        with trainer.interruptible():
            results.clear()
            results.update(evaluate_with_ema(cfg, model, ema, do_test))
            for name, picture in pictures.draw(unwrap(model)).items():
                trainer.storage.put_image(name, picture)
        return results

    is_main = comm.is_main_process()
    metrics = MetricsHook(cfg.train.output_dir, cfg.train.log_period, history)
    evaluation = EvaluationHook(cfg.train.eval_period, run_evaluation, history)
    best = _best_checkpoint(cfg, model, averaged, history)
    # Hooks that save come before hooks that may fail; hooks that depend on an evaluation come after it.
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            BaseLRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            EMAHook(ema) if ema is not None else None,
            FolderCheck(cfg.train.output_dir, lock) if is_main else None,
            metrics if is_main else None,
            PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
            evaluation,
            best,
            stopping,
            *_own_hooks(cfg),
        ]
    )
    start_iter = _load(cfg, args, model, trainer, checkpointer)
    history.load(start_iter)
    reason = stopping.reached() if stopping is not None else ""
    complete = bool(reason) or start_iter >= cfg.train.max_iter
    if is_main:
        used = editable(cfg)
        used.train.seed = trainer.seed
        with as_user_error(OSError, prefix="train.output_dir: "):
            if not complete or not (Path(cfg.train.output_dir) / "config.yaml").exists():
                record_config(used)
            about = describe(used)
        for saver in (checkpointer, best.checkpointer if best is not None else checkpointer):
            saver.about = about
    if complete:
        logger.info("Training is complete: %d of %d iterations. %s", start_iter, cfg.train.max_iter, reason)
        if is_main:
            metrics.restore(start_iter)
        if history.has(trainer.completed) or reason:
            return evaluate_with_ema(cfg, model, ema, do_test)
        evaluation.make_up()
        if best is not None:
            best.check()
        return results
    if comm.is_main_process():
        trainer.register_hooks([hooks.PeriodicWriter(_writers(cfg), period=cfg.train.log_period), ProgressLine()])
    run_and_save(trainer, checkpointer, cfg.train.max_iter)
    return results


def _own_hooks(cfg: DictConfig) -> list[HookBase]:
    """The hooks of ``train.hooks``, which run after this package's."""
    made = []
    for number, node in enumerate(cfg.train.get("hooks") or []):
        with as_user_error(ValueError, TypeError, prefix=f"train.hooks.{number}: "):
            hook = instantiate(node)
        if not isinstance(hook, HookBase):
            raise UserError(f"train.hooks.{number} is a {type(hook).__name__}, not a detectron2.engine.HookBase")
        made.append(hook)
    return made


def _log_length(cfg: DictConfig, loader: TrainLoader | ForeignLoader) -> None:
    batch, dataset = cfg.dataloader.train.total_batch_size, loader.dataset
    if not isinstance(loader, TrainLoader) or dataset is None:
        logger.info("%d iterations of %d images", cfg.train.max_iter, batch)
        return
    num_images = len(dataset)
    logger.info(
        "%d iterations of %d images: %.4g epochs of the %d training images, %.4g iterations each",
        cfg.train.max_iter, batch, cfg.train.max_iter * batch / num_images, num_images, num_images / batch,
    )  # fmt: skip


def evaluate_with_ema(
    cfg: DictConfig, model: nn.Module, ema: ModelEMA | None, do_test: Callable[[DictConfig, nn.Module], dict]
) -> dict:
    """Run ``do_test`` on the model, and on its average as ``ema`` with files in ``OUTPUT/ema``."""
    results = dict(do_test(cfg, model) or {})
    if ema is not None:
        logger.info("Evaluating the averaged weights: ema/...")
        own = editable(cfg)
        own.train.output_dir = str(Path(cfg.train.output_dir) / "ema")
        averaged = do_test(own, ema.model)
        if averaged:
            results["ema"] = averaged
    return results


def build_ema(cfg: DictConfig, model: nn.Module) -> ModelEMA | None:
    """The average configured by ``train.ema``, or None."""
    options = dict(cfg.train.get("ema") or {"enabled": False})
    return ModelEMA(unwrap(model), **options) if options.pop("enabled") else None


def _best_checkpoint(
    cfg: DictConfig, model: nn.Module, averaged: dict[str, ModelEMA], history: EvaluationHistory
) -> BestCheckpoint | None:
    options = cfg.train.get("best_checkpoint") or {}
    if options.get("metric") is None or cfg.dataloader.get("evaluator") is None or not comm.is_main_process():
        return None
    checkpointer = BestCheckpointer(model, cfg.train.output_dir, **averaged)
    return BestCheckpoint(cfg.train.eval_period, checkpointer, history=history, **options)


def _early_stopping(cfg: DictConfig, history: EvaluationHistory) -> EarlyStopping | None:
    options = cfg.train.get("early_stopping") or {}
    if options.get("patience") is None:
        return None
    return EarlyStopping(cfg.train.eval_period, history=history, **options)


def _writers(cfg: DictConfig) -> list[EventWriter]:
    options = dict(cfg.train.get("wandb") or {"enabled": False})
    more = []
    if options.pop("enabled"):
        plain = OmegaConf.to_container(cfg, resolve=False)
        more = [WandbWriter(cfg.train.output_dir, config=plain, **options)]
    return default_writers(cfg.train.output_dir, cfg.train.max_iter, more)


def _load(
    cfg: DictConfig, args: argparse.Namespace, model: nn.Module, trainer: Trainer, checkpointer: Checkpointer
) -> int:
    """Load initial weights or a checkpoint and return the first iteration."""
    if args.resume and checkpointer.has_checkpoint():
        left = checkpointer.resume()
        ema = checkpointer.checkpointables.get("ema")
        if ema is not None and not ema.num_updates:
            logger.warning("The checkpoint holds no averaged weights: the average (train.ema) starts from its weights")
        if "ema" in left:
            logger.warning("The checkpoint's averaged weights are left behind: train.ema.enabled=False")
        logger.info("Resuming after iteration %d", trainer.completed)
        return trainer.completed + 1
    if args.resume:
        logger.info("No checkpoint in %s: starting from the beginning", cfg.train.output_dir)
    modules = list(cfg.train.get("init_modules", []))
    load_model_weights(model, cfg.train.init_checkpoint, modules=modules, class_names=class_names(cfg))
    return 0


def has_weights(cfg: DictConfig) -> bool:
    """Whether a config names trained weights: a checkpoint, or a pretrained ``transformers`` model."""
    return bool(cfg.train.init_checkpoint) or bool(cfg.model.get("pretrained"))


def run_eval_only(cfg: DictConfig, do_test: Callable[[DictConfig, nn.Module], dict]) -> dict:
    """Evaluate ``train.init_checkpoint`` and add the results to ``OUTPUT/metrics.json``.

    Raises:
        UserError: no checkpoint is given, or it does not contain the whole model.
    """
    if not has_weights(cfg):
        raise UserError("--eval-only needs the weights to evaluate: train.init_checkpoint=PATH")
    model = load_model(cfg)
    results = do_test(cfg, model)
    if comm.is_main_process() and results:
        write_results(results, cfg.train.output_dir, checkpoint=cfg.train.init_checkpoint)
    return results
