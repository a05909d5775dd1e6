"""The one decoder loop: run stages by a recollection plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn
from torch.utils.checkpoint import checkpoint

from .recollection import Plan
from .structures import QueryState, StagePrediction


class DecoderStage(Protocol):
    """What a detector supplies: one refinement of queries.

    Groups never touch the batch axis of the memory: self-attention sees ``(B * G, Q, C)``, everything else
    ``(B, G * Q, C)`` against one ``(B, N, C)`` memory. The returned reference is detached from the graph (where the
    detector's paper detaches it), the content is not.

    A stage may also have ``prepare(memory) -> memory``, which computes what it needs of the memory alone; where groups
    are processed in several passes, it is called once for all of them.
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
        checkpoint_groups: keep no activations of recollected groups for the backward pass but compute them again there
            (dropout with the same masks). The chain that inference runs, the last group of every step, stays plain.
        max_groups_per_pass: run at most that many recollected groups of a step at once, the chain after them. With
            ``checkpoint_groups`` the activations of no more than these groups exist at any time; without it only what a
            stage frees itself gets smaller.
        compile_stages: run stages through ``torch.compile``, with symbolic sizes.

    Neither of the first two changes a loss or a gradient, but for the order of sums and the order in which dropout
    draws its masks; docs/cost.md says what they cost.
    """

    def __init__(
        self,
        *,
        stages: Sequence[nn.Module],
        plan: Plan | str | Mapping | Sequence = "sequential",
        inference_plan: Plan | str | Mapping | Sequence | None = None,
        checkpoint_groups: bool = False,
        max_groups_per_pass: int | None = None,
        compile_stages: bool = False,
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
        for name, flag in (("checkpoint_groups", checkpoint_groups), ("compile_stages", compile_stages)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name}={flag!r}: True or False")
        if max_groups_per_pass is not None and (type(max_groups_per_pass) is not int or max_groups_per_pass < 1):
            raise ValueError(
                f"max_groups_per_pass={max_groups_per_pass!r}: a whole number from 1, or None for all at once"
            )
        self.checkpoint_groups, self.max_groups_per_pass = checkpoint_groups, max_groups_per_pass
        if compile_stages:
            for stage in self.stages:
                stage.compile(dynamic=True)

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
            states = [outputs[i] for i in sources]
            outputs[number], prediction = self._run(self.stages[stage - 1], states, memory, initial.num_groups)
            predictions.append(prediction)
            for output in [i for i in outputs if plan.last_use(i) <= number]:
                del outputs[output]
        return predictions

    def _run(
        self, stage: nn.Module, states: Sequence[QueryState], memory: object, chain: int
    ) -> tuple[QueryState, StagePrediction]:
        """Run a stage on the concatenation of ``states``, whose last ``chain`` groups are the chain of inference."""
        recollected = sum(state.num_groups for state in states) - chain
        if recollected == 0 or not (self.checkpoint_groups or self.max_groups_per_pass):
            return stage(QueryState.cat(states), memory)
        if hasattr(stage, "prepare"):
            memory = stage.prepare(memory)

        def run(begin: int, end: int) -> tuple[QueryState, StagePrediction]:
            return stage(QueryState.cat(_groups(states, begin, end)), memory)

        size = self.max_groups_per_pass or recollected
        results = []
        for begin in range(0, recollected, size):
            end = min(begin + size, recollected)
            # the concatenation is inside, so that what is kept of a pass are the outputs that exist anyway
            if self.checkpoint_groups:
                results.append(checkpoint(run, begin, end, use_reentrant=False))
            else:
                results.append(run(begin, end))
        results.append(run(recollected, recollected + chain))
        outputs, predictions = zip(*results, strict=True)
        return QueryState.cat(outputs), StagePrediction.cat(predictions)


def _groups(states: Sequence[QueryState], begin: int, end: int) -> list[QueryState]:
    """The groups from ``begin`` to before ``end`` of the concatenation of ``states``."""
    parts, start = [], 0
    for state in states:
        first, last = max(begin - start, 0), min(end - start, state.num_groups)
        if first < last:
            parts.append(state.groups(first, last))
        start += state.num_groups
    return parts
