"""The last stage of a decoder as a model of its own, run in a loop.

Dense recollection with recurrence (the plan ``dense_recurrent``) trains the last stage on the initial queries and on
its own outputs, so after training it can do every stage's work: of a six-stage AdaMixer one stage remains. A model
trained otherwise can be cut too, but its last stage never saw what the loop feeds it.

What differs between stages, detector by detector, and what becomes of it in a decoder of one stage:

- Deformable DETR, plain, and DETR: nothing but the layers; heads (and DETR's output norm) are shared, and listed in
  each stage's state, so they stay.
- Deformable DETR with refinement, two-stage, H-DETR, AdaMixer: heads of its own in every stage; the last stage's stay.
  The loop starts at points, proposals or full-image boxes and continues from refined boxes, of which dense recollection
  trains both (paths ``0-6`` and ``...-6-6``). The encoder's proposal heads belong to the query generator and stay.
- DAB-DETR, DAB-Deformable-DETR, Conditional and Group DETR: only the first stage adds positions to contents and leaves
  the sine embedding unscaled. The last stage never did, so the decoder of one stage has no such stage
  (``special_first=False``); the shared position networks are listed in the last stage's state too.
- Groups of initial queries and auxiliary sets belong to the query generator and stay; evaluation uses the first group.
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

    Detectors whose first stage differs from the others (``special_first``) get one of the others, which is what the
    last stage was.

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
    Plan.looped(1, times=times)  # says what is wrong with ``times``
    cfg.model.decoder.plan = "sequential"
    cfg.model.decoder.inference_plan = {"name": "looped", "times": times}
    return cfg


def trains_the_loop(plan: Plan) -> bool:
    """Whether a plan trains its last stage on the initial queries and on its own outputs."""
    last = [(number, step.sources) for number, step in enumerate(plan.steps, start=1) if step.stage == plan.num_stages]
    own = {number for number, _ in last}
    return any(0 in sources for _, sources in last) and any(own & set(sources) for _, sources in last)
