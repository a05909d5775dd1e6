"""A trained model, evaluated in different ways: stages at inference, duplicates, fusions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ...config import load_run_config
from ...engine import load_model
from ..definition import Cell
from ..results import Context, Measurement, measurement_of
from .common import analyze_stages, filled, fresh_shapes, take, weights_digest
from .fusion import FusedStages

_OPTIONAL = ("overrides", "fresh", "fuse", "latency_images")


def measure_evaluation(cell: Cell, context: Context) -> Measurement:
    """Evaluate a checkpoint.

    Options: ``config``, ``checkpoint``, ``overrides``; ``fresh``, seed and number of new images of the shapes dataset
    to evaluate on; ``fuse``, ``rule`` and ``stages`` (:class:`FusedStages`); ``latency_images``, the number of images
    to time individually.
    """
    config, checkpoint, overrides, fresh, fuse, latency_images = take(cell.options, ("config", "checkpoint"), _OPTIONAL)
    settings = filled(overrides, context.data) + (fresh_shapes(context.work, **fresh) if fresh else [])
    cfg = load_run_config(config, settings, init_checkpoint=checkpoint)
    model = load_model(cfg).eval()
    digest = weights_digest(model)
    if fuse:
        model = FusedStages(model, **fuse)
    found = measurement_of(analyze_stages(cfg, model), details={"weights": digest})
    if latency_images:
        whole = load_model(load_run_config(config, filled([], context.data), init_checkpoint=checkpoint)).eval()
        found.metrics["ms"], found.metrics["time"] = processor_time(cfg, model, whole, latency_images)
    return found


@torch.no_grad()
def processor_time(cfg: DictConfig, model: nn.Module, reference: nn.Module, images: int) -> tuple[float, float]:
    """Processor time per single image, including postprocessing, in ms and as a percentage of a reference's.

    The two models take turns on the same images, so that other load slows both; medians over the
    images, after three warm-up images.
    """
    loader = instantiate(cfg.dataloader.test)
    inputs: Sequence[dict] = [x for batch in loader for x in batch][: images + 3]
    times: list[tuple[float, float]] = []
    for one in inputs:
        marks = [time.process_time()]
        for timed in (model, reference):
            timed([one])
            marks.append(time.process_time())
        times.append((marks[1] - marks[0], marks[2] - marks[1]))
    times = times[3:]
    return 1000 * statistics.median(a for a, _ in times), 100 * statistics.median(a / b for a, b in times)
