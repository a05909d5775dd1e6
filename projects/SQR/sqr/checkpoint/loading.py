"""Initial weights: Detectron2 and torchvision files, this project's checkpoints, and published detectors'."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from ..distributed import unwrap
from ..errors import UserError, as_user_error, one_line
from ..finite import describe_not_finite, not_finite
from .backbones import backbone_names
from .class_heads import ClassHeadChanges, fit_class_heads
from .files import Weights, read_weights
from .registry import convert, detect_layout, without_wrappers

logger = logging.getLogger(__name__)

_WITHOUT = "set train.init_checkpoint= (empty) to start from random weights"
_COUNTERS = "num_batches_tracked"  # of BatchNorm: optional in published files, no result depends on it


@dataclass
class LoadReport:
    """The loaded and missing tensors of the model, and the unexpected tensors of the file.

    ``heads``: what became of class heads.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    heads: ClassHeadChanges = field(default_factory=ClassHeadChanges)

    def lines(self) -> list[str]:
        """Messages beyond the number of loaded tensors."""
        heads = self.heads
        anew = f", those of {_listed(heads.new_classes)} initialised anew" if heads.new_classes else ""
        said = (
            (f"Class heads, rows taken by the names of the classes{anew}", _modules(heads.matched)),
            ("Proposal scorers, of which only row 0 counts, cut to the number of classes", _modules(heads.resized)),
            ("Class heads of other classes than the file's, initialised anew", _modules(heads.dropped)),
            ("Not in the file, left as initialised", _summary(self.missing)),
            ("Not used", _summary(self.unexpected)),
        )
        return [f"{what}: {keys}" for what, keys in said if keys]


def load_model_weights(
    model: nn.Module,
    source: str,
    *,
    complete: bool = False,
    modules: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Load a checkpoint's weights into a model, whatever its layout.

    Understood are this project's and Detectron2's ``.pth``, Detectron2's ``.pkl`` (its name-matching
    included), torchvision ResNet state dicts, and the published detector layouts that
    :mod:`sqr.checkpoint` converts. Class heads are fitted as :mod:`sqr.checkpoint.class_heads` says.

    Args:
        model: possibly wrapped for several processes.
        source: path or URL as :func:`~sqr.checkpoint.files.read_weights` takes it; empty loads nothing. Of several,
            with `` + `` between them (``timm://NAME + zoo://NAME``), each adds matching tensors that the previous ones
            lack.
        complete: every tensor of the model must be in the file, as in an evaluation.
        modules: load only these modules (``"backbone"``, ``"encoder.layers"``) from the file; empty takes all.
        class_names: of the model's classes, where they are known.

    Raises:
        UserError: no such file, not readable, not fetchable, an unknown layout, a tensor of another shape,
            more tensors that do not fit than that do, or (``complete``) a missing tensor.
    """
    model = unwrap(model)
    if not source:
        logger.info("Starting from random weights (train.init_checkpoint is empty)")
        return LoadReport(missing=list(model.state_dict()))
    name = f"train.init_checkpoint={source}"
    weights, changes = _gather(model, source, name, class_names, complete)
    bad = not_finite(weights)
    if bad:
        raise UserError(f"{name} is of a training that diverged: {describe_not_finite(bad, len(weights))}")
    if modules:
        weights = _only(weights, modules, name)
    hint = "give weights of this config's model" if complete else f"give others, or {_WITHOUT}"
    report = _place(model, weights, changes, name=name, hint=hint, complete=complete)
    loaded = [key for key in report.loaded if not key.endswith(_COUNTERS)]
    total = sum(not key.endswith(_COUNTERS) for key in model.state_dict())
    logger.info("Loaded %d of the model's %d tensors from %s: %s", len(loaded), total, source, _summary(loaded, 12))
    for line in report.lines():
        logger.info("%s", line)
    return report


def _gather(
    model: nn.Module, source: str, name: str, class_names: Sequence[str] | None, complete: bool
) -> tuple[dict[str, Tensor], ClassHeadChanges]:
    """The tensors of one or several sources, with the model's names and class heads."""
    first, *others = [part.strip() for part in source.split(" + ")]
    weights, changes = _fit(model, read_weights(first, name=name, hint=_WITHOUT), name, class_names, complete)
    target = model.state_dict()
    for other in others:
        theirs = f"{name}: {other}"
        more, changed = _fit(model, read_weights(other, name=theirs, hint=_WITHOUT), theirs, class_names, complete)
        fitting = {k: v for k, v in more.items() if k in target and k not in weights and v.shape == target[k].shape}
        if not fitting:
            raise UserError(f"{theirs} adds no tensor that the model has; leave it out")
        logger.info("%s adds %d of its %d tensors", other, len(fitting), len(more))
        weights |= fitting
        changes = changed if changes == ClassHeadChanges() else changes
    return weights, changes


def _fit(
    model: nn.Module, data: Weights, name: str, class_names: Sequence[str] | None, complete: bool
) -> tuple[dict[str, Tensor], ClassHeadChanges]:
    weights = _fit_names(model, data, name)
    return _fit_heads(model, weights, data.class_names, class_names, complete)


def _fit_heads(
    model: nn.Module,
    weights: dict[str, Tensor],
    file_classes: Sequence[str] | None,
    model_classes: Sequence[str] | None,
    complete: bool,
) -> tuple[dict[str, Tensor], ClassHeadChanges]:
    if not isinstance(getattr(model, "num_classes", None), int):
        return weights, ClassHeadChanges()
    return fit_class_heads(
        weights,
        model.state_dict(),
        model.num_classes,
        file_classes=file_classes,
        model_classes=model_classes,
        complete=complete,
    )


def place_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    *,
    name: str,
    hint: str,
    complete: bool = False,
    file_classes: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Put weights with the model's names into it, class heads fitted.

    Args:
        model: not wrapped.
        weights: its tensors by name, and possibly others.
        name: of the weights in errors.
        hint: what to do if they do not fit.
        complete, class_names: as in :func:`load_model_weights`.
        file_classes: the names of the weights' classes, where they are known.

    Raises:
        UserError: as :func:`load_model_weights` says of tensors that do not fit.
    """
    weights, changes = _fit_heads(model, weights, file_classes, class_names, complete)
    return _place(model, weights, changes, name=name, hint=hint, complete=complete)


def _place(
    model: nn.Module, weights: dict[str, Tensor], changes: ClassHeadChanges, *, name: str, hint: str, complete: bool
) -> LoadReport:
    target = model.state_dict()
    known = {*weights, *changes.dropped}
    report = LoadReport(
        loaded=[k for k in weights if k in target],
        missing=[k for k in target if k not in known and not k.endswith(_COUNTERS)],
        unexpected=[k for k in weights if k not in target and not k.endswith(_COUNTERS)],
        heads=changes,
    )
    problem = _problem(report, weights, target, complete)
    if problem:
        raise UserError(f"{name} {problem}; {hint}")
    if changes.differing:
        logger.warning("%s: the classes have other names (%s) and are taken by their position", name, changes.differing)
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
    """Convert a checkpoint's names to the model's. What stands beside a wrapped model keeps its names."""
    target, tensors = model.state_dict(), data.tensors
    if data.loose:
        return align_and_update_state_dicts(target, tensors, c2_conversion=data.caffe2)
    known = _known_backbone(model, tensors, target, name)
    if known is not None:
        return known
    try:
        detect_layout(tensors)
    except ValueError as error:
        for prefix, inner in without_wrappers(tensors):
            fitted = _known_backbone(model, inner, target, name)
            if fitted is not None or any(k in target for k in inner):
                return (inner if fitted is None else fitted) | _beside(prefix, tensors)
        raise UserError(f"{name}: {one_line(error)}") from error
    with as_user_error(ValueError, prefix=f"{name}: "):
        converted, report = convert(tensors)
    return converted | _beside(report.prefix, tensors)


def _beside(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def _known_backbone(
    model: nn.Module, weights: dict[str, Tensor], target: dict[str, Tensor], name: str
) -> dict[str, Tensor] | None:
    """The tensors of a file of a backbone by the model's names; None of any other."""
    backbone = backbone_names(model, weights)
    if backbone:
        return {own: weights[name] for name, own in backbone.items()}
    if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
        return _from_torchvision_resnet(weights, target, name)
    return None


def _from_torchvision_resnet(weights: dict[str, Tensor], target: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """``layer1.0.bn1.weight`` to ``<prefix>res2.0.conv1.norm.weight``, with the prefix of the model's ResNet."""
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
    """Why the weights do not fit the model; empty if they do."""
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


def _listed(names: list[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _modules(keys: list[str]) -> str:
    """The modules of parameters, numbers left out: ``decoder.stages.*.class_embed (12 tensors)``."""
    modules = sorted({re.sub(r"\.\d+", ".*", key.rpartition(".")[0]) for key in keys})
    return f"{', '.join(modules)} ({len(keys)} tensors)" if keys else ""
