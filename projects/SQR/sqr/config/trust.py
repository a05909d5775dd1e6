"""What a YAML config, which is data and not code, may call.

``_target_`` names in YAML must be classes of a model's parts, optimizers, schedules, samplers and augmentations of this
package, Detectron2, PyTorch, torchvision and fvcore, functions that build such parts, or one of a few further names; or
lie in a package that the user names with ``--allow-target`` (or the environment variable ``SQR_ALLOW_TARGETS``). What
such a name *leads to* is judged, not only the name: ``torch.os.system`` is no part of PyTorch. A ``.py`` config is code
and is not checked.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.data.transforms import Augmentation, Transform
from detectron2.utils.registry import locate
from fvcore.common.param_scheduler import ParamScheduler

from ..errors import UsageError, one_line

VARIABLE = "SQR_ALLOW_TARGETS"
"""Environment variable with further packages, modules or names, separated by commas; child processes inherit it."""

# Modules whose functions and classes build parts of a model, schedules and augmentations and do nothing else.
_BUILDERS = (
    *(f"sqr.{name}" for name in ("adapters", "classification", "criterion", "data.transforms", "decoder", "detectors")),
    *(f"sqr.{name}" for name in ("engine.optim", "layers", "matcher", "meta_arch", "postprocessing", "recollection")),
    "detectron2.data.transforms", "fvcore.common.param_scheduler",
)  # fmt: skip

# Modules of which only classes of these kinds may be called.
_CLASSES = (torch.nn.Module, torch.optim.Optimizer, torch.utils.data.Sampler, Transform, Augmentation, ParamScheduler)
_HOMES_OF_CLASSES = (
    "detectron2.data", "detectron2.layers", "detectron2.modeling", "detectron2.solver", "torch.nn", "torch.optim",
    "torch.utils.data", "torchvision.models", "torchvision.ops", "torchvision.transforms",
)  # fmt: skip
_NOT_HOMES = ("detectron2.modeling.mmdet_wrapper",)  # builds whatever a dictionary of strings names

_NAMES = frozenset(
    {
        "detectron2.data.build.build_detection_test_loader", "detectron2.data.build.build_detection_train_loader",
        "detectron2.data.dataset_mapper.DatasetMapper",
        "detectron2.evaluation.coco_evaluation.COCOEvaluator", "detectron2.layers.shape_spec.ShapeSpec",
        "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage", "detectron2.solver.build.get_default_optimizer_params",
        "sqr.data.datasets.detection_dataset_name", "sqr.data.datasets.get_detection_dataset",
        "sqr.data.mapper.DetectionMapper", "sqr.engine.train_loader.build_train_loader",
        "sqr.evaluation.coco_evaluator.BoxEvaluator", "torch.utils.data.dataloader.DataLoader",
    }
)  # fmt: skip

# Under these names modules are imported to look for what a config names.
_ROOTS = ("sqr", "fvcore.common", "detectron2.evaluation", *_HOMES_OF_CLASSES)


def allow_targets(*names: str) -> None:
    """Allow YAML configs to call these packages, modules or functions, in this process and its children."""
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_allowed_by_user(), *names]))


def trusted_target(name: Any, where: str) -> Any:
    """Resolve a name in a YAML config to its callable.

    Args:
        name: as written there.
        where: file and key, for the error.

    Raises:
        UsageError: it is not a dotted name, it does not exist, it cannot be called, or a YAML file may not call it.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{where}: {str(name)[:200]!r} is not the dotted name of a function or class")
    allowed = _allowed_by_user()
    if name not in allowed and (not _is_in(name, (*_ROOTS, *allowed)) or "__" in name):
        raise _refused(name, where)
    try:
        target = locate(name)
    except Exception as error:  # whatever importing a module raises
        raise UsageError(f"{where}: {name} cannot be imported ({one_line(error)[:200]})") from error
    if not callable(target):
        raise UsageError(f"{where}: {name} is not a function or class")
    of_the_user = name in allowed or _is_in(str(getattr(target, "__module__", None)), allowed)
    if not of_the_user and not _only_builds(target):
        raise _refused(name, where)
    return target


def _only_builds(target: Any) -> bool:
    """Whether a callable is one of those that build a part of a training and touch nothing else."""
    if not (inspect.isclass(target) or inspect.isfunction(target) or inspect.ismethod(target)):
        return False
    module, name = target.__module__, target.__qualname__
    if f"{module}.{name}" in _NAMES:
        return True
    if "." in name or name.startswith("_"):
        return False
    of_a_kind = inspect.isclass(target) and issubclass(target, _CLASSES)
    return _is_in(module, _BUILDERS) or (
        of_a_kind and _is_in(module, _HOMES_OF_CLASSES) and not _is_in(module, _NOT_HOMES)
    )


def _refused(name: str, where: str) -> UsageError:
    return UsageError(
        f"{where}: a YAML config is data and may not call {name}. If you know this code, allow it: "
        f"--allow-target {name} (or {VARIABLE}={name})"
    )


def _allowed_by_user() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _is_in(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)
