"""Turns the last stage of a decoder into a model that runs it in a loop.

Dense recollection with recurrence (the plan ``dense_recurrent``) trains the last stage on the initial queries and on
its own outputs, so after training it can replace all stages: one stage of a six-stage AdaMixer remains. Other
models can be cut too, but their last stage never saw the inputs that the loop gives it.

The differences between stages by detector, and how a decoder of one stage handles them:

- Deformable DETR, plain, and DETR: only the layers differ; heads (and DETR's output norm) are shared and listed in
  each stage's state, so they are kept.
- Deformable DETR with refinement, two-stage, H-DETR, AdaMixer: every stage has its own heads; the last stage's are
kept.
  The loop starts at points, proposals or full-image boxes and continues from refined boxes, of which dense recollection
  trains both (paths ``0-6`` and ``...-6-6``). The encoder's proposal heads belong to the query generator and are kept.
- DAB-DETR, DAB-Deformable-DETR, Conditional and Group DETR: only the first stage adds positions to contents and leaves
  the sine embedding unscaled. The last stage does not, so the decoder of one stage has no such stage
  (``special_first=False``); the shared position networks are listed in the last stage's state too.
- Groups of initial queries and auxiliary sets belong to the query generator and are kept; evaluation uses the first
group.
"""

from __future__ import annotations

import inspect
import re

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..recollection import Plan
from .conversion import StateDict, num_stages

_STAGE = re.compile(r"decoder\.stages\.(\d+)\.(.+)")


def last_stage_alone(state_dict: StateDict) -> dict[str, Tensor]:
    """Everything but the stages before the last one, which becomes stage 0.

    Raises:
        ValueError: there are no ``decoder.stages``.
    """
    last = num_stages(state_dict) - 1
    if last < 0:
        raise ValueError("there are no decoder.stages in it")
    kept: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        match = _STAGE.fullmatch(key)
        if match is None:
            kept[key] = tensor
        elif int(match[1]) == last:
            kept[f"decoder.stages.0.{match[2]}"] = tensor
    return kept


def looped_config(cfg: DictConfig, times: int) -> DictConfig:
    """A copy of a training config whose model has one stage and runs it ``times`` times in evaluation.

    For detectors whose first stage differs from the others (``special_first``), the stage is one of the others, like
    the last stage.

    Raises:
        ValueError: the decoder's stages are not made by a function that takes ``num_stages``, or ``times`` is not
            positive.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False), flags={"allow_objects": True})
    stages = cfg.model.decoder.stages
    target = locate(stages["_target_"]) if isinstance(stages["_target_"], str) else stages["_target_"]
    takes = inspect.signature(target).parameters
    if "num_stages" not in takes:
        raise ValueError(f"model.decoder.stages calls {target.__name__}, which takes no num_stages")
    stages.num_stages = 1
    if "special_first" in takes:
        stages.special_first = False
    Plan.looped(1, times=times)  # raises an error about ``times``
    cfg.model.decoder.plan = "sequential"
    cfg.model.decoder.inference_plan = {"name": "looped", "times": times}
    return cfg


def trains_the_loop(plan: Plan) -> bool:
    """Whether a plan trains its last stage on the initial queries and on its own outputs."""
    last = [(number, step.sources) for number, step in enumerate(plan.steps, start=1) if step.stage == plan.num_stages]
    own = {number for number, _ in last}
    return any(0 in sources for _, sources in last) and any(own & set(sources) for _, sources in last)
