"""Initial weights: Detectron2 and torchvision files, this project's checkpoints, and published detectors'."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from .distributed import unwrap
from .errors import UserError, one_line

logger = logging.getLogger(__name__)

_WITHOUT = "set train.init_checkpoint= (empty) to start from random weights"


_COUNTERS = "num_batches_tracked"  # of BatchNorm: published files have it or not, and no result depends on it


@dataclass
class LoadReport:
    """Which tensors of the model were loaded, which were not, and which of the file have no place."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def load_model_weights(model: nn.Module, source: str, *, complete: bool = False) -> LoadReport:
    """Load a checkpoint's weights into a model, whatever its layout.

    Understood are this project's and Detectron2's ``.pth``, Detectron2's ``.pkl`` (its name-matching
    included), torchvision ResNet state dicts, and the published detector layouts that
    :mod:`sqr.checkpoint` converts.

    Args:
        model: possibly wrapped for several processes.
        source: path or URL (``detectron2://``, ``https://``); empty loads nothing.
        complete: every tensor of the model must be in the file, as for an evaluation.

    Raises:
        UserError: no such file, not readable, not fetchable, an unknown layout, a tensor of another shape,
            more tensors that do not fit than that do, or (``complete``) a missing tensor.
    """
    model = unwrap(model)
    if not source:
        logger.info("Starting from random weights (train.init_checkpoint is empty)")
        return LoadReport(missing=list(model.state_dict()))
    target = model.state_dict()
    weights = _fit_names(_unpack(_read(fetch(source), source), source), target, source)
    report = LoadReport(
        loaded=[k for k in weights if k in target],
        missing=[k for k in target if k not in weights and not k.endswith(_COUNTERS)],
        unexpected=[k for k in weights if k not in target and not k.endswith(_COUNTERS)],
    )
    _check(report, weights, target, source, complete)
    model.load_state_dict({k: weights[k] for k in report.loaded}, strict=False)
    logger.info("Loaded %d of the model's %d tensors from %s", len(report.loaded), len(target), source)
    for what, keys in (
        ("Not in the file, left as initialised", report.missing),
        ("Not used", report.unexpected),
    ):
        if keys:
            logger.info("%s: %s", what, _summary(keys))
    return report


def fetch(source: str) -> str:
    """A local path for a path or URL.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    is_url = "://" in source
    try:
        path = PathManager.get_local_path(source)
    except Exception as error:  # whatever the handler of the URL's scheme raises
        raise UserError(
            f"train.init_checkpoint={source} cannot be fetched ({one_line(error)}); give a local path, or {_WITHOUT}"
        ) from error
    if not os.path.isfile(path):
        raise UserError(f"train.init_checkpoint={source}: no such file{'' if is_url else f'; {_WITHOUT}'}")
    return path


def _read(path: str, source: str) -> Any:
    try:
        if path.endswith(".pkl"):
            with open(path, "rb") as file:
                return _ArrayUnpickler(file, encoding="latin1").load()
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"train.init_checkpoint={source} is not a readable checkpoint: {one_line(error)[:300]}"
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads Detectron2's ``.pkl`` files, which hold numpy arrays, and refuses to build anything else."""

    _ALLOWED = frozenset(
        {("collections", "OrderedDict"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {(f"numpy.{core}.multiarray", n) for core in ("core", "_core") for n in ("_reconstruct", "scalar")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, not only arrays")
        return super().find_class(module, name)


@dataclass
class _Weights:
    """The tensors of a checkpoint, ``module.`` prefixes removed, and how they are named.

    ``loose``: names are parts of the model's (``res2.0.conv1.weight``); ``caffe2``: in Caffe2's spelling.
    """

    tensors: dict[str, Tensor]
    loose: bool
    caffe2: bool


def _unpack(data: Any, source: str) -> _Weights:
    if not isinstance(data, dict):
        raise UserError(f"train.init_checkpoint={source} holds a {type(data).__name__}, not a dict of tensors")
    loose = bool(data.get("matching_heuristics")) or "blobs" in data
    caffe2 = data.get("__author__") == "Caffe2" or "blobs" in data
    for key in ("model", "state_dict", "model_state_dict", "blobs"):
        if isinstance(data.get(key), dict):
            data = data[key]
            break
    weights = {
        k.removeprefix("module."): torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in data.items()
        if isinstance(v, (Tensor, np.ndarray)) and not k.endswith("_momentum")
    }
    if not weights:
        raise UserError(f"train.init_checkpoint={source} holds no tensors")
    return _Weights(weights, loose, caffe2)


def _fit_names(data: _Weights, target: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Bring a checkpoint's names to the model's."""
    weights = data.tensors
    if data.loose:
        return align_and_update_state_dicts(target, weights, c2_conversion=data.caffe2)
    if any(k in target for k in weights):
        return weights
    if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
        return _from_torchvision_resnet(weights, target, source)
    from sqr.checkpoint import convert

    try:
        return convert(weights)[0]
    except ValueError as error:
        raise UserError(f"train.init_checkpoint={source}: {one_line(error)}") from error


def _from_torchvision_resnet(weights: dict[str, Tensor], target: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """``layer1.0.bn1.weight`` to ``<prefix>res2.0.conv1.norm.weight``, where the model has its ResNet."""
    stems = [k.removesuffix("stem.conv1.weight") for k in target if k.endswith("stem.conv1.weight")]
    if len(stems) != 1:
        raise UserError(
            f"train.init_checkpoint={source} is a torchvision ResNet, but the model has {len(stems)} ResNets "
            "with Detectron2's names to load it into"
        )

    def rename(name: str) -> str:
        name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        return stems[0] + (name if name.startswith("res") else f"stem.{name}")

    return {rename(k): v for k, v in weights.items() if not k.startswith("fc.")}


def _check(
    report: LoadReport, weights: dict[str, Tensor], target: dict[str, Tensor], source: str, complete: bool
) -> None:
    problem = None
    wrong = [k for k in report.loaded if weights[k].shape != target[k].shape]
    if len(report.loaded) <= len(report.unexpected):
        problem = (
            f"is for another model: {len(report.loaded)} of its {len(weights)} tensors have a place in "
            f"this one, {_summary(report.unexpected)} have none"
        )
    elif wrong:
        shapes = "; ".join(
            f"{k} is {tuple(weights[k].shape)} in the file and {tuple(target[k].shape)} in the model" for k in wrong[:4]
        )
        problem = f"has {len(wrong)} tensors of another shape: {shapes}{'; ...' if len(wrong) > 4 else ''}"
    elif complete and report.missing:
        problem = f"is not a whole model: {len(report.missing)} tensors are missing: {_summary(report.missing)}"
    if problem:
        hint = "give weights of this config's model" if complete else f"give others, or {_WITHOUT}"
        raise UserError(f"train.init_checkpoint={source} {problem}; {hint}")


def _summary(keys: list[str], limit: int = 6) -> str:
    """The first two components of the keys with their numbers: ``decoder.layers (120), class_head (2)``."""
    counts: dict[str, int] = {}
    for key in keys:
        head = ".".join(key.split(".")[:2])
        counts[head] = counts.get(head, 0) + 1
    parts = [f"{head} ({count})" for head, count in list(counts.items())[:limit]]
    return ", ".join(parts) + (f" and {len(counts) - limit} more" if len(counts) > limit else "")
