"""The one decoder loop: run stages by a recollection plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .recollection import Plan
from .structures import PreparedMemory, QueryState, StagePrediction


class DecoderStage(nn.Module):
    """One refinement of queries; a detector supplies a subclass.

    Groups never touch the batch axis of the memory: self-attention sees ``(B * G, Q, C)``, everything else
    ``(B, G * Q, C)`` against one ``(B, N, C)`` memory. The returned reference is detached from the graph (where the
    detector's paper detaches it), the content is not.

    Attributes:
        shared: names of the submodules that all stages of a decoder share (:func:`sqr.layers.repeated.repeated`).
    """

    shared: tuple[str, ...] = ()

    def make_first(self) -> None:
        """Adapt this stage to being the first one, which differs in some detectors."""

    def prepare(self, memory: Any) -> PreparedMemory:
        """Compute what the stage needs of the memory only, such as keys and values.

        The decoder calls it once per stage, for all steps, query sets and passes over groups.
        """
        return PreparedMemory(memory, None)

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        raise NotImplementedError


class RecollectingDecoder(nn.Module):
    """Runs stages by a plan: the recollecting one in training, the sequential cascade otherwise.

    Recollection adds no parameters and nothing at inference: a state dict is the same under every plan.

    Args:
        stages: the stages.
        plan: the training plan, or any argument of :meth:`Plan.from_spec`, such as "selective".
        inference_plan: likewise the plan of evaluation mode, with one group in every step; the sequential cascade over
            all stages when None. ``{name: sequential, stages: 4}`` ends after four stages. A model trained by the
            dense-recurrent plan can loop its last stage: ``{name: looped, times: 5}``.
        checkpoint_groups: recompute the activations of recollected groups in the backward pass instead of storing them
            (with the same dropout masks). Those of the inference chain, the last group of every step, are stored.
        max_groups_per_pass: run at most this many groups of a step at once, the recollected ones first, then the chain
            (several groups if the initial queries are, as in Group DETR). With ``checkpoint_groups`` this bounds how
            many recollected groups have activations at any time; without, only a stage's temporaries get smaller.
        compile_stages: run stages through ``torch.compile`` with symbolic sizes; can be read and set afterwards.

    ``checkpoint_groups`` and ``max_groups_per_pass`` change losses and gradients only by the order of sums and of
    dropout's random numbers; docs/cost.md gives their cost.
    """

    def __init__(
        self,
        *,
        stages: Sequence[DecoderStage],
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
        if self.inference_plan.total != self.inference_plan.num_steps:
            raise ValueError(
                f"inference_plan={self.inference_plan}: recollected groups are for training only; at inference every "
                "step runs one group, as in sequential and looped plans"
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
        self.compile_stages = compile_stages
        self.draw_number: int | None = None
        self._forwards = 0

    @property
    def compile_stages(self) -> bool:
        """Whether stages run through ``torch.compile``; copies of a model do not, as usual in PyTorch."""
        return any(stage._compiled_call_impl is not None for stage in self.stages)

    @compile_stages.setter
    def compile_stages(self, value: bool) -> None:
        for stage in self.stages:
            if value:
                stage.compile(dynamic=True)
            else:
                stage._compiled_call_impl = None  # Module.compile has no opposite

    @property
    def active_plan(self) -> Plan:
        """The plan that the current mode (``self.training``) runs.

        For a sampled plan it is draw ``draw_number``, which the trainer sets for every step, the same in all processes.
        If it is not set, each forward pass in training mode makes the next draw.
        """
        if not self.training:
            return self.inference_plan
        return self.plan.draw(self._forwards if self.draw_number is None else self.draw_number)

    def forward(self, initial: QueryState, memory: object) -> list[StagePrediction]:
        """Run the active plan and return one prediction per step, with that step's groups."""
        return self.forward_sets([initial], memory)[0]

    def forward_sets(self, initials: Sequence[QueryState], memory: object) -> list[list[StagePrediction]]:
        """Run :meth:`forward` on several independent query sets that share the prepared memory."""
        if self.training:
            self._forwards += 1
        plan = self.active_plan
        outputs: list[dict[int, QueryState]] = [{0: initial} for initial in initials]
        predictions: list[list[StagePrediction]] = [[] for _ in initials]
        prepared: dict[int, PreparedMemory] = {}
        for number, (index, _) in enumerate(plan.steps, start=1):
            stage = self.stages[index - 1]
            if index not in prepared:
                prepared[index] = stage.prepare(memory)
            for initial, known, done in zip(initials, outputs, predictions, strict=True):
                width = initial.num_groups
                states = [known[i].groups(begin * width, end * width) for i, begin, end in plan.parts(number)]
                known[number], prediction = self._run(stage, states, prepared[index], initial.num_groups)
                done.append(prediction)
                for output in [i for i in known if plan.last_use(i) <= number]:
                    del known[output]
            if plan.last_run(index) == number:
                del prepared[index]
        return predictions

    def _run(
        self, stage: DecoderStage, states: Sequence[QueryState], memory: PreparedMemory, chain: int
    ) -> tuple[QueryState, StagePrediction]:
        """Run a stage on the concatenation of ``states``, whose last ``chain`` groups are the inference chain."""
        total = sum(state.num_groups for state in states)
        recollected, size = total - chain, self.max_groups_per_pass or total
        in_passes = recollected > 0 and (self.checkpoint_groups or self.max_groups_per_pass is not None)
        compiled = self.compile_stages

        def run(begin: int, end: int, *_: Tensor) -> tuple[QueryState, StagePrediction]:
            state = QueryState.cat(_groups(states, begin, end))
            # compiled graphs are specialised to their inputs' strides: avoid one graph per kind of view
            return stage(state.copy() if compiled else state, memory)

        if total <= size and not in_passes:
            return run(0, total)

        results = []
        for begin, end in _passes(0, recollected, size):
            # concatenating inside the checkpoint saves only outputs that exist anyway
            if self.checkpoint_groups:
                # the tensor tells checkpoint() which device's random state to restore
                results.append(checkpoint(run, begin, end, states[0].content, use_reentrant=False))
            else:
                results.append(run(begin, end))
        results += [run(begin, end) for begin, end in _passes(recollected, total, size)]
        outputs, predictions = zip(*results, strict=True)
        return QueryState.cat(outputs), StagePrediction.cat(predictions)


def _passes(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    """Split ``range(begin, end)`` into (begin, end) pairs of at most ``size``."""
    return [(first, min(first + size, end)) for first in range(begin, end, size)]


def _groups(states: Sequence[QueryState], begin: int, end: int) -> list[QueryState]:
    """Groups ``begin`` to ``end - 1`` of the concatenation of ``states``."""
    parts, start = [], 0
    for state in states:
        first, last = max(begin - start, 0), min(end - start, state.num_groups)
        if first < last:
            parts.append(state.groups(first, last))
        start += state.num_groups
    return parts
