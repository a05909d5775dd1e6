"""Shared by the kinds: options, configs, models, datasets, and the evaluation of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ...config import editable
from ...data.shapes import ShapesSettings, ensure_shapes, shapes_files
from ...errors import UserError
from ...evaluation.analysis import StageAnalysis
from ...evaluation.evaluator import StageEvaluator, StageInference
from ...evaluation.inference import dataset_name_of


def take(options: Mapping, needed: Sequence[str], optional: Sequence[str] = ()) -> list:
    """The options in order, None for absent optional ones.

    Raises:
        UserError: a missing or an unknown option.
    """
    unknown = sorted(set(options) - {*needed, *optional})
    if unknown:
        raise UserError(f"unknown option {unknown[0]!r}; this kind of study takes {', '.join((*needed, *optional))}")
    missing = [name for name in needed if name not in options]
    if missing:
        raise UserError(f"the option {missing[0]!r} is missing")
    return [options.get(name) for name in (*needed, *optional)]


def filled(overrides: Iterable[str] | None, data: Path) -> list[str]:
    """Overrides with ``{data}`` replaced by the folder of the datasets.

    Raises:
        UserError: the folder is needed but does not exist.
    """
    texts = [str(override) for override in overrides or ()]
    if any("{data}" in text for text in texts) and not data.is_dir():
        raise UserError(f"the folder of the datasets, {data}, does not exist; give it with --data")
    return [text.replace("{data}", str(data)) for text in texts]


def fresh_shapes(work: Path, *, seed: int, images: int) -> list[str]:
    """Overrides that evaluate on new images of the shapes dataset, of a seed other than the embedded one's."""
    settings = ShapesSettings(train_images=1, val_images=images, seed=seed)
    ensure_shapes(work, settings)
    annotations, folder = shapes_files("val", work, settings)
    return [f"data.val.annotations={annotations}", f"data.val.images={folder}"]


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's weights, stored with results to detect other checkpoints."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def analyze_stages(cfg: DictConfig, model: nn.Module, batches: Iterable[list[dict]] | None = None) -> StageAnalysis:
    """The stage analysis of a model on the config's test data.

    Args:
        cfg: its evaluator names the dataset.
        model: has ``forward_stages`` and ``postprocessor``.
        batches: its inputs; the config's test loader when None.
    """
    cfg = editable(cfg)
    evaluator = StageEvaluator(dataset_name_of(cfg), distributed=False)
    inference = StageInference(model)
    for inputs in instantiate(cfg.dataloader.test) if batches is None else batches:
        evaluator.process(inputs, inference(inputs))
    evaluator.evaluate()
    return evaluator.result
