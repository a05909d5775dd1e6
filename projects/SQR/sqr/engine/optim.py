"""Parameter groups and learning-rate schedules as in the papers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler, ParamScheduler
from torch import nn

from ..errors import UserError

# The numbered block of a backbone that a parameter belongs to.
_LAYER = re.compile(
    r"(net\.|model\.|bottom_up\.)*(features\.\d+|(?!conv|norm|bn)[a-z]+[._]?\d+(\.(blocks\.)?\d+)?)(?=\.)"
)


def get_param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    lr_multipliers: Mapping[str, float] | None = None,
    layer_decay: Mapping[str, float] | None = None,
    weight_decay_norm: float | None = None,
) -> list[dict]:
    """Trainable parameters grouped by learning rate and weight decay.

    Args:
        model: frozen parameters are left out, shared ones counted once.
        base_lr: learning rate of parameters that match no pattern.
        weight_decay: of all parameters. The DETR papers decay norms and biases like everything else.
        lr_multipliers: pattern to factor. A pattern is one or more complete components of a parameter's
            dotted name: ``sampling_offsets`` matches ``decoder.0.attn.sampling_offsets.weight``. The first
            match wins.
        layer_decay: module to factor, ``{"backbone": 0.8}``: the rate of the module's last layer is kept, and that of
            each earlier layer is multiplied by one more factor, as in ViTDet. A layer is a numbered block
            (``res3.1``, ``blocks.7``, ``stages_2.blocks.5``), or an embedding or stem before the first one.
        weight_decay_norm: weight decay of the parameters of normalisation layers; None for ``weight_decay``.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``, in the order of the model's parameters.

    Raises:
        UserError: a pattern or a module of ``layer_decay`` names no parameter (of this model, trainable or not).
    """
    multipliers, decays = dict(lr_multipliers or {}), _layer_factors(model, layer_decay or {})
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    unused = [pattern for pattern in multipliers if not any(_matches(pattern, name) for name in names)]
    if unused:
        parts = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
        raise UserError(
            f"lr_multipliers: no parameter is named {', '.join(map(repr, sorted(unused)))}; the parts of "
            f"this model's parameter names are {', '.join(parts[:40])}{', ...' if len(parts) > 40 else ''}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model has no trainable parameter")

    def factor(name: str) -> float:
        fitting = (value for pattern, value in multipliers.items() if _matches(pattern, name))
        return next(fitting, 1.0) * decays.get(name.removeprefix("."), 1.0)

    return get_default_optimizer_params(
        model, base_lr, weight_decay, weight_decay_norm=weight_decay_norm, lr_factor_func=factor
    )


def _matches(pattern: str, name: str) -> bool:
    return f".{pattern}." in f".{name}."


def _layer_factors(model: nn.Module, layer_decay: Mapping[str, float]) -> dict[str, float]:
    """The factor of each parameter in the modules that ``layer_decay`` names."""
    factors: dict[str, float] = {}
    for module, decay in layer_decay.items():
        depths: dict[str, int] = {}
        layers: list[str] = []
        for name, _ in model.named_parameters(remove_duplicate=False):
            if name.startswith(f"{module}."):
                layer = _LAYER.match(name.removeprefix(f"{module}."))
                if layer and not any(known.startswith(layer[0]) for known in layers[-1:]):
                    layers.append(layer[0])
                depths[name] = len(layers)  # a parameter outside all blocks belongs to the preceding one
        if not depths:
            raise UserError(f"layer_decay: no parameter is in a module {module!r}")
        factors |= {name: decay ** (len(layers) - depth) for name, depth in depths.items()}
    return factors


def step_schedule(
    *,
    milestones: Sequence[float],
    total: float,
    max_iter: int,
    gamma: float = 0.1,
    warmup_iters: int = 0,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """A step schedule over a run of ``max_iter`` iterations, as a multiplier of the base learning rate.

    Args:
        milestones: where the rate is multiplied by ``gamma``, in the unit of ``total``.
        total: length of the run in the unit of the milestones: 50 (epochs), 90000 (iterations) or 1.0
            (fractions).
        max_iter: length of the run in iterations.
        gamma: factor at each milestone.
        warmup_iters: iterations of linear warm-up; 0 for none, as in the DETR recipes.
        warmup_factor: multiplier of the first iteration when there is a warm-up.

    Raises:
        UserError: milestones that do not increase or lie outside ``(0, total)``.
    """
    milestones = [float(m) for m in milestones]
    if milestones != sorted(set(milestones)) or any(not 0 < m < total for m in milestones):
        raise UserError(f"lr_multiplier: milestones={milestones} must rise and lie between 0 and total={total}")
    # Milestones that a very short run rounds to its first or past its last iteration are dropped.
    steps = [step for m in milestones if 0 < (step := round(m / total * max_iter)) < max_iter]
    values = {step: gamma ** (number + 1) for number, step in enumerate(steps)}
    schedule: ParamScheduler = _Constant()
    if values and max_iter > len(values):
        schedule = MultiStepParamScheduler([1.0, *values.values()], num_updates=max_iter, milestones=list(values))
    if warmup_iters:
        schedule = WarmupParamScheduler(schedule, warmup_factor, min(warmup_iters / max_iter, 1.0))
    return schedule


class _Constant(ParamScheduler):
    """Always 1; fvcore's constant schedule rejects ``where == 1``, which Detectron2 evaluates at the end."""

    def __call__(self, where: float) -> float:
        return 1.0
