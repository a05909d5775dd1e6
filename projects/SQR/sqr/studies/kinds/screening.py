"""Decoder-only screening: train decoders from scratch on the outputs of a frozen, trained encoder.

Backbone, encoder and proposals of a trained model are computed once and cached; a cell then trains only the config's
decoder, for a few hundred iterations, and evaluates it on images that neither has seen. It takes a minute or two on one
core instead of half an hour for a training, and answers a narrower question: what a plan does to a decoder, given good
features. Images are not augmented.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ...config import load_run_config
from ...data import DetectionMapper
from ...engine import load_model
from ...engine.optim import get_param_groups
from ...engine.rng import plan_draw, seed_process, seed_step
from ...engine.startup import git_state
from ...meta_arch import QueryBasedDetector
from ...recollection import Plan
from ...targets import Targets
from ..definition import Cell
from ..results import Context, Measurement, measurement_of
from .common import analyze_stages, fresh_shapes, take, weights_digest
from .frozen_encoder import EncodedDetector, EncodedImages, encode_images

_NEEDED = ("config", "checkpoint", "iterations", "batch_size", "fresh")
_OPTIONAL = ("plan", "curriculum", "criterion", "lr", "train_images")
_CHUNK = 50


def measure_screening(cell: Cell, context: Context) -> Measurement:
    """Train and evaluate a decoder.

    Options: ``config`` and ``checkpoint`` of the trained model; ``iterations`` and ``batch_size``; ``fresh``, seed and
    number of the images to evaluate on; ``plan``, or ``curriculum``, plans by the iteration from which they run;
    ``criterion``, attributes to set on it; ``lr``, the config's when absent; ``train_images``, the first ones only.
    """
    config, checkpoint, iterations, batch_size, fresh, plan, curriculum, criterion, lr, train_images = take(
        cell.options, _NEEDED, _OPTIONAL
    )
    cfg = load_run_config(config, fresh_shapes(context.work, **fresh), init_checkpoint=checkpoint)
    model = load_model(cfg).eval()
    digest = weights_digest(model)
    key = f"{git_state()} {digest}"
    train_samples = instantiate(cfg.dataloader.train.dataset)[:train_images]
    train = _encoded(model, cfg, train_samples, context.work, f"{key} train {train_images}")
    test = _encoded(model, cfg, instantiate(cfg.dataloader.test.dataset), context.work, f"{key} {fresh}")
    for name, value in (criterion or {}).items():
        if not hasattr(model.criterion, name):
            raise AttributeError(f"criterion: {type(model.criterion).__name__} has no attribute {name!r}")
        setattr(model.criterion, name, value)
    seed_process(cell.seed)
    model.decoder = instantiate(cfg.model.decoder)
    specs = {0: plan} if curriculum is None else curriculum
    plans = {int(first): Plan.from_spec(spec, len(model.decoder.stages)) for first, spec in specs.items()}
    begin = time.process_time()
    losses = train_decoder(
        model, train, plans, seed=cell.seed, iterations=iterations, batch_size=batch_size,
        lr=lr or cfg.optimizer.lr, weight_decay=cfg.optimizer.params.weight_decay,
        max_norm=cfg.train.clip_grad.max_norm,
    )  # fmt: skip
    spent = time.process_time() - begin
    model.eval()
    batches = [test.inputs[i : i + _CHUNK] for i in range(0, len(test), _CHUNK)]
    analysis = analyze_stages(cfg, EncodedDetector(model, test), batches)
    details = {
        "weights": digest,
        "train_cpu_seconds": spent,
        "sets": max(p.total for p in plans.values()),
        "last_loss": losses[-1],
    }
    return measurement_of(analysis, details=details)


def train_decoder(
    model: QueryBasedDetector,
    images: EncodedImages,
    plans: Mapping[int, Plan],
    *,
    seed: int,
    iterations: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    max_norm: float | None,
) -> list[float]:
    """Train ``model.decoder``: AdamW, 50 iterations of warm-up, the rate divided by ten after 80 %.

    Args:
        model: its criterion and classes are used, its decoder is trained.
        images: with their ``instances``.
        plans: by the iteration from which they run.
        seed: of the order of the images, of draws and dropout.
        iterations, batch_size, lr, weight_decay, max_norm: as in a training config; the rate of sampling offsets is a
            tenth.

    Returns:
        The total loss of each iteration.
    """
    decoder = model.decoder.train()
    names = [name for name, _ in decoder.named_parameters()]
    multipliers = {"sampling_offsets": 0.1} if any("sampling_offsets" in name for name in names) else {}
    groups = get_param_groups(decoder, base_lr=lr, weight_decay=weight_decay, lr_multipliers=multipliers)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / 50) * (0.1 if i >= 0.8 * iterations else 1.0)
    )
    order, waiting, losses = torch.Generator().manual_seed(seed), [], []
    for iteration in range(iterations):
        if len(waiting) < batch_size:
            waiting += torch.randperm(len(images), generator=order).tolist()
        memory, state, inputs = images.rows(waiting[:batch_size])
        del waiting[:batch_size]
        decoder.plan = plans.get(iteration, decoder.plan)
        decoder.draw_number = plan_draw(seed, iteration)
        seed_step(seed, iteration, 0)
        targets = Targets.from_batched_inputs(inputs, num_classes=model.num_classes, device=model.device)
        loss = sum(model.criterion(decoder(state, memory), decoder.active_plan, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), max_norm or float("inf"))
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def _encoded(model: QueryBasedDetector, cfg: DictConfig, samples: list[dict], work: Path, key: str) -> EncodedImages:
    mapper = DetectionMapper(
        is_train=True, augmentations=instantiate(cfg.dataloader.test.mapper.augmentations),
        image_format=cfg.dataloader.test.mapper.image_format,
    )  # fmt: skip
    return encode_images(model, samples, mapper, cache=work, key=key)
