"""One call for a model that was just trained: analyse it, print the numbers, write figures and report."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from .analysis import StageAnalysis
from .command import image_root_of, publish
from .inference import analyze_model, dataset_name_of


def evaluate_and_report(
    cfg: DictConfig, model: nn.Module, output_dir: str | Path, *, name: str = "model"
) -> tuple[StageAnalysis | None, Path | None]:
    """Analyse every stage of a model on its config's test data; print the tables and the report's path.

    Args:
        cfg: a config that :func:`sqr.engine.load_config` returned, its number of classes resolved.
        model: with its weights.
        output_dir: gets ``predictions/``, ``stage_analysis.json``, ``stage_analysis.csv``, ``figures/`` and
            ``report.html``.
        name: what tables and report call the model.

    Returns:
        The analysis and the report's path; None for both on all but the main process.
    """
    result, _ = analyze_model(cfg, model, output_dir, source=name)
    if result is None:
        return None, None
    return result, publish(result, output_dir, image_root=image_root_of(dataset_name_of(cfg)))
