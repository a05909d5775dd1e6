"""From a training config and a checkpoint to a stage-wise analysis."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..runs import command_line
from .analysis import EPSILONS, RATE_IOUS, StageAnalysis
from .evaluator import StageEvaluator, StageInference
from .finite_outputs import require_finite_weights

logger = logging.getLogger(__name__)


def dataset_name_of(cfg: DictConfig) -> str:
    """The registered name of a config's test dataset, taken from its evaluator.

    Raises:
        ValueError: the config has no ``dataloader.evaluator.dataset_name``.
    """
    name = cfg.dataloader.get("evaluator", {}).get("dataset_name")
    if name is None:
        raise ValueError("the config has no dataloader.evaluator.dataset_name: there is no dataset to analyse")
    return name if isinstance(name, str) else instantiate(name)


def analyze_model(
    cfg: DictConfig,
    model: nn.Module,
    output_dir: str | Path,
    *,
    rate_ious: Sequence[float] = RATE_IOUS,
    epsilons: Sequence[float] = EPSILONS,
    clip_boxes: bool = False,
    source: str = "",
) -> tuple[StageAnalysis | None, bool]:
    """Run a model over its config's test data and analyse every stage.

    Predictions and numbers are written to ``output_dir``. Ctrl-C ends inference; the predictions made so far
    are kept and analysed.

    Args:
        cfg: a config that :func:`sqr.config.load_run_config` returned.
        model: with weights loaded; temporarily switched to evaluation mode.
        output_dir: see :class:`StageEvaluator`.
        rate_ious, epsilons, clip_boxes, source: see :class:`StageEvaluator`.

    Returns:
        The analysis (None on all but the main process), and whether inference was interrupted.
    """
    loader = instantiate(cfg.dataloader.test)
    evaluator = StageEvaluator(
        dataset_name_of(cfg),
        output_dir=output_dir,
        rate_ious=rate_ious,
        epsilons=epsilons,
        clip_boxes=clip_boxes,
        max_dets=cfg.dataloader.evaluator.get("max_dets_per_image") or 100,
        source=source,
        details=f"{cfg.train.init_checkpoint}, {time.strftime('%Y-%m-%d %H:%M')}, {command_line()}",
    )
    require_finite_weights(model)
    try:
        inference_on_dataset(StageInference(model), loader, evaluator)
    except KeyboardInterrupt:
        evaluator.flush()
        if comm.get_world_size() > 1 or not evaluator.num_images:
            raise
        logger.warning("interrupted: analysing the %d images that were predicted", evaluator.num_images)
        evaluator.evaluate_partial()
        return evaluator.result, True
    return evaluator.result, False
