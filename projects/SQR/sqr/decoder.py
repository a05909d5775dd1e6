"""The one decoder loop: run stages by a recollection plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from .recollection import Plan
from .structures import QueryState, StagePrediction


class DecoderStage(Protocol):
    """What a detector supplies: one refinement of queries.

    Groups never touch the batch axis of the memory: self-attention sees ``(B * G, Q, C)``, everything else
    ``(B, G * Q, C)`` against one ``(B, N, C)`` memory. The returned reference is detached from the graph (where the
    detector's paper detaches it), the content is not.
    """

    def __call__(self, state: QueryState, memory: object) -> tuple[QueryState, StagePrediction]: ...


class RecollectingDecoder(nn.Module):
    """Runs stages by a plan: the recollecting one in training, the sequential cascade otherwise.

    Recollection adds no parameters and nothing at inference: a state dict is the same under every plan.

    Args:
        stages: the stage modules, each a :class:`DecoderStage`.
        plan: the training plan, or anything that :meth:`Plan.from_spec` makes one of, such as "selective".
        inference_plan: likewise the plan of evaluation mode; the sequential cascade over all stages when None. A
            model trained by the dense-recurrent plan can loop its last stage here: ``{name: looped, times: 5}``.
    """

    def __init__(
        self,
        *,
        stages: Sequence[nn.Module],
        plan: Plan | str | Mapping | Sequence = "sequential",
        inference_plan: Plan | str | Mapping | Sequence | None = None,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        num_stages = len(self.stages)
        self.plan = Plan.from_spec(plan, num_stages)
        self.inference_plan = Plan.from_spec("sequential" if inference_plan is None else inference_plan, num_stages)
        for name, value in (("plan", self.plan), ("inference_plan", self.inference_plan)):
            if value.num_stages != num_stages:
                raise ValueError(
                    f"{name} is made for {value.num_stages} stages but the decoder has {num_stages}: {value}"
                )
        unused = set(range(1, num_stages + 1)) - {step.stage for step in self.plan.steps}
        if unused:
            raise ValueError(f"plan never runs stage {min(unused)}, which would not be trained: {self.plan}")

    @property
    def active_plan(self) -> Plan:
        """The plan that the current mode (``self.training``) runs."""
        return self.plan if self.training else self.inference_plan

    def forward(self, initial: QueryState, memory: object) -> list[StagePrediction]:
        """Returns one prediction a step of the active plan, with that step's groups."""
        plan = self.active_plan
        outputs: dict[int, QueryState] = {0: initial}
        predictions = []
        for number, (stage, sources) in enumerate(plan.steps, start=1):
            state = QueryState.cat([outputs[i] for i in sources])
            outputs[number], prediction = self.stages[stage - 1](state, memory)
            predictions.append(prediction)
            for output in [i for i in outputs if plan.last_use(i) <= number]:
                del outputs[output]
        return predictions
