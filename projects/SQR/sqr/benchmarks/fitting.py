"""Which settings make a training fit into a memory: predictions by plan and setting, and a recommendation."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ..errors import UsageError, as_user_error
from ..recollection import Plan
from .executions import EXECUTIONS
from .prediction import Prediction, Rehearsal
from .reporting import GIGABYTE

HEADROOM = 0.1
"""Share of a budget that is left to what a prediction does not see: workspaces, fragments, the CUDA context."""

PlanSpec = str | Mapping | Sequence
_UNITS = {"MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}
_BOUNDING = {"checkpoint_groups": False, "max_groups_per_pass": None}  # the decoder's options, and what is plain
_CROWDED = 100  # objects: COCO's training images have up to 93


@dataclass(frozen=True)
class Setting:
    """What a user may change to save memory, beside the plan.

    Attributes:
        execution: one of ``EXECUTIONS``; None runs the options of the config.
        options: of the decoder, that execution's.
        amp: under autocast.
        parts: in which a batch is fed, ``train.accumulation_steps``.
    """

    execution: str | None
    options: tuple[tuple[str, object], ...]
    amp: bool
    parts: int = 1

    def overrides(self, cfg: DictConfig) -> list[str]:
        """What to add to a command line where the config says otherwise."""
        changed = [
            f"model.decoder.{key}={'null' if value is None else value}"
            for key, value in self.options
            if cfg.model.decoder.get(key, _BOUNDING[key]) != value
        ]
        changed = [
            text if text.split("=")[0].rpartition(".")[2] in cfg.model.decoder else f"+{text}" for text in changed
        ]
        if self.amp != cfg.train.amp.enabled:
            changed.append(f"train.amp.enabled={self.amp}")
        if self.parts != own_parts(cfg):
            changed.append(f"train.accumulation_steps={self.parts}")
        return changed

    def __str__(self) -> str:
        """What differs from plain training in full precision."""
        words = ["amp"] if self.amp else []
        return " ".join(words + [f"{key}={value}" for key, value in self.options if value != _BOUNDING[key]])


@dataclass(frozen=True)
class Row:
    """A plan in a setting on a padded batch.

    Attributes:
        steps: predictions by the number of images at once, rising. Between them peaks are taken for lines, and beyond
            the last one for the last line: a small batch's peak can be at the end of the backward pass, with all
            gradients, a large one's is at its begin, with all activations. Budgets below the first have no answer.
    """

    plan: PlanSpec
    setting: Setting
    steps: Mapping[int, Prediction]

    @property
    def per_image(self) -> float:
        """Bytes that a further image adds to a large batch."""
        (fewer, small), (more, large) = list(self.steps.items())[-2:]
        return (large.peak - small.peak) / (more - fewer)

    def largest_batch(self, budget: float) -> int:
        """The most images at once whose peak stays within a budget in bytes; 0 where the fewest are too many."""
        counts, peaks = list(self.steps), [step.peak for step in self.steps.values()]
        if budget < peaks[0]:
            return 0
        beyond = max(0.0, budget - peaks[-1]) / max(self.per_image, 1)
        return int(np.interp(budget, peaks, counts) + beyond)


def predict_row(
    rehearsal: Rehearsal,
    plan: PlanSpec,
    setting: Setting,
    *,
    images: int,
    size: tuple[int, int],
    objects: int,
    budget: float | None = None,
) -> Row:
    """Predict ``images`` at once, many more, and, where they exceed a budget in bytes, a single one.

    Raises:
        UserError: the model cannot be run on this size, or by this plan.
    """

    def step(count: int) -> Prediction:
        return _predict(rehearsal, plan, setting, size=size, images=count, objects=objects)

    steps = {count: step(count) for count in (images, images + rehearsal.many)}
    if images > 1 and budget is not None and steps[images].peak > budget:
        steps = {1: step(1), **steps}
    return Row(plan, setting, steps)


def _predict(rehearsal: Rehearsal, plan: PlanSpec, setting: Setting, **shape: object) -> Prediction:
    accumulating = setting.parts > 1
    with as_user_error(ValueError, prefix="model: "):
        return rehearsal.step(
            plan=plan, execution=setting.execution, amp=setting.amp, accumulating=accumulating, **shape
        )


def settings(cfg: DictConfig, plan: PlanSpec) -> list[Setting]:
    """The settings to predict for a plan, mildest first: full precision or autocast, then recomputation as well.

    Where a plan recollects nothing there is nothing to compute again. Where the config has autocast on, so has every
    setting; what options of its own the config has come first.
    """
    parts, amp = own_parts(cfg), bool(cfg.train.amp.enabled)
    own = {key: cfg.model.decoder.get(key, default) for key, default in _BOUNDING.items()}
    plain, *bounded = (EXECUTIONS[name] for name in ("folded", "checkpoint", "checkpoint-4"))
    found = [("folded", plain, amp), ("folded", plain, True)]
    if recollects(cfg, plan):
        found += [
            ("checkpoint", bounded[0], amp),
            ("checkpoint-4", bounded[1], amp),
            ("checkpoint-4", bounded[1], True),
        ]
        if own not in (plain, *bounded):
            found.insert(0, (None, own, amp))
    return list(dict.fromkeys(Setting(name, tuple(options.items()), a, parts) for name, options, a in found))


def recommend(
    cfg: DictConfig,
    rehearsal: Rehearsal,
    plan: PlanSpec,
    *,
    images: int,
    size_of: Callable[[int], tuple[int, int]],
    objects: int,
    budget: float,
) -> str:
    """A sentence: whether a plan fits, or the mildest setting that makes it fit.

    Each of :func:`settings` is tried with the batch at once, then in parts, which changes neither the training nor its
    work: ``images`` are those of a step on one GPU, and ``size_of`` the padded size of a number of images.
    """
    room = budget * (1 - HEADROOM)
    asked = f"{budget / GIGABYTE:.0f} GB, {images} images a GPU and step, plan {plan_text(plan)}"
    for setting in _mildest_first(cfg, plan, images):
        at_once = images // setting.parts
        shape = {"size": size_of(at_once), "images": at_once, "objects": objects}
        peak = _predict(rehearsal, plan, setting, **shape).peak
        if peak <= room:
            changes = plan_overrides(cfg, plan) + setting.overrides(cfg)
            how = f"with {shlex.join(changes)}" if changes else "as it is"
            return f"{asked}: fits {how} ({peak / GIGABYTE:.1f} GB predicted, {HEADROOM:.0%} kept free)"
    return f"{asked}: does not fit, not even an image at a time; lower data.max_size, or use a smaller backbone"


def _mildest_first(cfg: DictConfig, plan: PlanSpec, images: int) -> Iterator[Setting]:
    for setting in settings(cfg, plan):
        for parts in range(setting.parts, images + 1):
            if images % parts == 0:
                yield Setting(setting.execution, setting.options, setting.amp, parts)


def own_parts(cfg: DictConfig) -> int:
    return int(cfg.train.get("accumulation_steps", 1))


def own_plan(cfg: DictConfig) -> PlanSpec:
    """The config's plan as plain values."""
    plan = cfg.model.decoder.get("plan", "sequential")
    return OmegaConf.to_container(plan, resolve=True) if OmegaConf.is_config(plan) else plan


def plan_of(cfg: DictConfig, spec: PlanSpec) -> Plan:
    """A spec's plan for the config's decoder.

    Raises:
        UserError: there is no such plan.
    """
    with as_user_error(ValueError):
        return Plan.from_spec(spec, cfg.model.decoder.stages.get("num_stages", 6))


def recollects(cfg: DictConfig, spec: PlanSpec) -> bool:
    return any(len(step.sources) > 1 for step in plan_of(cfg, spec).steps)


def plan_text(spec: PlanSpec) -> str:
    """As an override says it: ``selective``, ``{name:selective,start:3}``, ``[[0],[0,1]]``."""
    return spec if isinstance(spec, str) else re.sub(r'["\s]', "", json.dumps(spec))


def plan_overrides(cfg: DictConfig, spec: PlanSpec) -> list[str]:
    same = plan_of(cfg, spec) == plan_of(cfg, own_plan(cfg))
    return [] if same else [f"model.decoder.plan={plan_text(spec)}"]


def most_objects(cfg: DictConfig) -> int:
    """As many objects as a crowded image has, or as the model's smallest query set can be matched with."""
    queries = cfg.model.query_generator
    most = min(_CROWDED, queries.num_queries)
    auxiliary = queries.get("num_auxiliary", 0)
    return min(most, auxiliary // cfg.model.criterion.get("auxiliary_repeats", 6)) if auxiliary else most


def parse_bytes(text: str) -> float:
    """``24GB`` -> 24e9.

    Raises:
        UsageError: not a number and a unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    units = {name.lower(): value for name, value in _UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(f"--budget {text}: write a number and one of {', '.join(_UNITS)}, as in 24GB")
    return float(match[1]) * units[match[2].lower()]
