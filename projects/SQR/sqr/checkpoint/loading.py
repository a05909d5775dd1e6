"""Initial weights: Detectron2 and torchvision files, this project's checkpoints, and published detectors'."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from ..distributed import unwrap
from ..errors import UserError, one_line
from ..finite import describe_not_finite, not_finite
from .backbones import backbone_names
from .class_heads import ClassHeadChanges, fit_class_heads
from .files import Weights, read_weights
from .registry import convert, detect_layout

logger = logging.getLogger(__name__)

_WITHOUT = "set train.init_checkpoint= (empty) to start from random weights"
_COUNTERS = "num_batches_tracked"  # of BatchNorm: published files have it or not, and no result depends on it


@dataclass
class LoadReport:
    """Which tensors of the model were loaded, which were not, and which of the file have no place.

    ``picked``: of those loaded, class heads of which the rows of COCO's 80 categories were taken; ``resized``: likewise
    two-stage proposal scorers, of which only row 0 counts; ``reinitialised``: class heads for other classes than the
    file's, left as initialised.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    picked: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What there is to say beyond the number of tensors loaded."""
        said = (
            ("Class heads, rows of COCO's 80 categories picked from 91 ids", _modules(self.picked)),
            ("Proposal scorers, of which only row 0 counts, cut to the number of classes", _modules(self.resized)),
            ("Class heads of other classes than the file's, initialised anew", _modules(self.reinitialised)),
            ("Not in the file, left as initialised", _summary(self.missing)),
            ("Not used", _summary(self.unexpected)),
        )
        return [f"{what}: {keys}" for what, keys in said if keys]


def load_model_weights(
    model: nn.Module, source: str, *, complete: bool = False, modules: Sequence[str] = ()
) -> LoadReport:
    """Load a checkpoint's weights into a model, whatever its layout.

    Understood are this project's and Detectron2's ``.pth``, Detectron2's ``.pkl`` (its name-matching
    included), torchvision ResNet state dicts, and the published detector layouts that
    :mod:`sqr.checkpoint` converts. Class heads are fitted as :mod:`sqr.checkpoint.class_heads` says; in training those
    for another number of classes start anew.

    Args:
        model: possibly wrapped for several processes.
        source: path or URL as :func:`~sqr.checkpoint.files.read_weights` takes it; empty loads nothing. Of several,
            with `` + `` between them (``timm://NAME + zoo://NAME``), each adds what those before it lack and what fits.
        complete: every tensor of the model must be in the file, as for an evaluation.
        modules: take only these modules (``"backbone"``, ``"encoder.layers"``) from the file; empty takes all.

    Raises:
        UserError: no such file, not readable, not fetchable, an unknown layout, a tensor of another shape,
            more tensors that do not fit than that do, or (``complete``) a missing tensor.
    """
    model = unwrap(model)
    if not source:
        logger.info("Starting from random weights (train.init_checkpoint is empty)")
        return LoadReport(missing=list(model.state_dict()))
    name = f"train.init_checkpoint={source}"
    weights = _gather(model, source, name)
    bad = not_finite(weights)
    if bad:
        raise UserError(f"{name} is of a training that diverged: {describe_not_finite(bad, len(weights))}")
    if modules:
        weights = _only(weights, modules, name)
    hint = "give weights of this config's model" if complete else f"give others, or {_WITHOUT}"
    report = place_weights(model, weights, name=name, hint=hint, complete=complete)
    logger.info("Loaded %d of the model's %d tensors from %s", len(report.loaded), len(model.state_dict()), source)
    for line in report.lines():
        logger.info("%s", line)
    return report


def _gather(model: nn.Module, source: str, name: str) -> dict[str, Tensor]:
    """The tensors of one or several sources, with the model's names."""
    first, *others = [part.strip() for part in source.split(" + ")]
    weights = _fit_names(model, read_weights(first, name=name, hint=_WITHOUT), name)
    target = model.state_dict()
    for other in others:
        more = _fit_names(model, read_weights(other, name=f"{name}: {other}", hint=_WITHOUT), f"{name}: {other}")
        if isinstance(getattr(model, "num_classes", None), int):
            more, _ = fit_class_heads(more, target, model.num_classes)
        fitting = {k: v for k, v in more.items() if k in target and k not in weights and v.shape == target[k].shape}
        if not fitting:
            raise UserError(f"{name}: {other} adds no tensor that the model has; leave it out")
        logger.info("%s adds %d of its %d tensors", other, len(fitting), len(more))
        weights |= fitting
    return weights


def place_weights(
    model: nn.Module, weights: dict[str, Tensor], *, name: str, hint: str, complete: bool = False
) -> LoadReport:
    """Put weights with the model's names into it, class heads fitted.

    Args:
        model: not wrapped.
        weights: its tensors by name, and possibly others.
        name: what to call the weights in errors.
        hint: what to do where they do not fit.
        complete: as in :func:`load_model_weights`.

    Raises:
        UserError: as :func:`load_model_weights` says of tensors that do not fit.
    """
    target = model.state_dict()
    changes = ClassHeadChanges()
    if isinstance(getattr(model, "num_classes", None), int):
        fitted, changes = fit_class_heads(weights, target, model.num_classes)
        if complete and changes.dropped:
            changes = ClassHeadChanges()  # heads of other classes are no whole model: their shapes are the error
        else:
            weights = fitted
    known = {*weights, *changes.dropped}
    report = LoadReport(
        loaded=[k for k in weights if k in target],
        missing=[k for k in target if k not in known and not k.endswith(_COUNTERS)],
        unexpected=[k for k in weights if k not in target and not k.endswith(_COUNTERS)],
        picked=changes.picked,
        resized=changes.resized,
        reinitialised=changes.dropped,
    )
    problem = _problem(report, weights, target, complete)
    if problem:
        raise UserError(f"{name} {problem}; {hint}")
    model.load_state_dict({k: weights[k] for k in report.loaded}, strict=False)
    return report


def _only(weights: dict[str, Tensor], modules: Sequence[str], name: str) -> dict[str, Tensor]:
    """The tensors of some modules."""
    for module in modules:
        if not any(key.startswith(f"{module}.") for key in weights):
            there = ", ".join(sorted({key.partition(".")[0] for key in weights}))
            raise UserError(f"train.init_modules names {module!r}, but {name} has only: {there}")
    return {k: v for k, v in weights.items() if any(k.startswith(f"{module}.") for module in modules)}


def _fit_names(model: nn.Module, data: Weights, name: str) -> dict[str, Tensor]:
    """Bring a checkpoint's names to the model's."""
    weights, target = data.tensors, model.state_dict()
    if data.loose:
        return align_and_update_state_dicts(target, weights, c2_conversion=data.caffe2)
    backbone = backbone_names(model, weights)
    if backbone:
        return {own: weights[name] for name, own in backbone.items()}
    if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
        return _from_torchvision_resnet(weights, target, name)
    try:
        layout = detect_layout(weights)
    except ValueError as error:
        if any(k in target for k in weights):
            return weights
        raise UserError(f"{name}: {one_line(error)}") from error
    try:
        return convert(weights, layout)[0]
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error)}") from error


def _from_torchvision_resnet(weights: dict[str, Tensor], target: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """``layer1.0.bn1.weight`` to ``<prefix>res2.0.conv1.norm.weight``, where the model has its ResNet."""
    stems = [k.removesuffix("stem.conv1.weight") for k in target if k.endswith("stem.conv1.weight")]
    if len(stems) != 1:
        raise UserError(
            f"{name} is a torchvision ResNet, but the model has {len(stems)} ResNets "
            "with Detectron2's names to load it into"
        )

    def rename(key: str) -> str:
        key = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", key)
        key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        key = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
        return stems[0] + (key if key.startswith("res") else f"stem.{key}")

    return {rename(k): v for k, v in weights.items() if not k.startswith("fc.")}


def _problem(report: LoadReport, weights: dict[str, Tensor], target: dict[str, Tensor], complete: bool) -> str:
    """Why the weights are not the model's, or nothing."""
    wrong = [k for k in report.loaded if weights[k].shape != target[k].shape]
    if len(report.loaded) <= len(report.unexpected):
        return (
            f"is for another model: {len(report.loaded)} of its {len(weights)} tensors have a place in "
            f"this one, {_summary(report.unexpected)} have none"
        )
    if wrong:
        shapes = "; ".join(
            f"{k} is {tuple(weights[k].shape)} in the file and {tuple(target[k].shape)} in the model" for k in wrong[:4]
        )
        return f"has {len(wrong)} tensors of another shape: {shapes}{'; ...' if len(wrong) > 4 else ''}"
    if complete and report.missing:
        return f"is not a whole model: {len(report.missing)} tensors are missing: {_summary(report.missing)}"
    return ""


def _summary(keys: list[str], limit: int = 6) -> str:
    """The first two components of the keys with their numbers: ``decoder.layers (120), class_head (2)``."""
    counts: dict[str, int] = {}
    for key in keys:
        head = ".".join(key.split(".")[:2])
        counts[head] = counts.get(head, 0) + 1
    parts = [f"{head} ({count})" for head, count in list(counts.items())[:limit]]
    return ", ".join(parts) + (f" and {len(counts) - limit} more" if len(counts) > limit else "")


def _modules(keys: list[str]) -> str:
    """The modules of parameters, numbers left out: ``decoder.stages.*.class_embed (12 tensors)``."""
    modules = sorted({re.sub(r"\.\d+", ".*", key.rpartition(".")[0]) for key in keys})
    return f"{', '.join(modules)} ({len(keys)} tensors)" if keys else ""
