"""Ways to run a recollecting decoder: this package's, and two others to compare with.

``folded`` is :class:`sqr.decoder.RecollectingDecoder`: groups are more queries of the same image. ``checkpoint`` and
``checkpoint-4`` are the same with the options that bound its memory, ``compile`` with its stages through
``torch.compile``. ``loop`` and ``repeat`` are baselines, defined only here, that give the same predictions in the same
order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from ..decoder import RecollectingDecoder
from ..recollection import Plan
from ..structures import QueryState, StagePrediction
from .subjects import repeat_memory


class _Baseline(nn.Module):
    """A decoder with another's stages and plan."""

    def __init__(self, decoder: RecollectingDecoder):
        super().__init__()
        self.stages = decoder.stages
        self.plan = decoder.plan

    @property
    def active_plan(self) -> Plan:
        return self.plan

    def forward_sets(self, initials: Sequence[QueryState], memory: object) -> list[list[StagePrediction]]:
        return [self(initial, memory) for initial in initials]


class LoopingDecoder(_Baseline):
    """A loop over the plan's paths: one group after another."""

    def forward(self, initial: QueryState, memory: object) -> list[StagePrediction]:
        """As :meth:`sqr.decoder.RecollectingDecoder.forward`."""
        states = {(0,): initial}
        steps: list[list[StagePrediction]] = [[] for _ in self.plan.steps]
        for info in self.plan.sets:
            stage = self.stages[info.stage - 1]
            states[info.path], prediction = stage(states[info.path[:-1]], stage.prepare(memory))
            steps[info.step - 1].append(prediction)
        return [StagePrediction.cat(predictions) for predictions in steps]


class RepeatingDecoder(_Baseline):
    """Groups as further images of the batch, with the memory repeated for each, as the released implementations do.

    (Fangyi-Chen/SQR for Deformable DETR and AdaMixer, detrex for DAB-DETR.) A stage that runs ``G`` groups projects
    ``G`` copies of every image's features.
    """

    def forward(self, initial: QueryState, memory: object) -> list[StagePrediction]:
        """As :meth:`sqr.decoder.RecollectingDecoder.forward`."""
        outputs = {0: initial}
        predictions = []
        for number, (index, _) in enumerate(self.plan.steps, start=1):
            stage, width = self.stages[index - 1], initial.num_groups
            state = QueryState.cat(
                [outputs[i].groups(begin * width, end * width) for i, begin, end in self.plan.parts(number)]
            )
            groups = state.num_groups
            output, prediction = stage(_as_images(state), stage.prepare(repeat_memory(memory, groups)))
            outputs[number] = _map(output, lambda x, g=groups: _to_groups(x, g))
            predictions.append(
                StagePrediction(_to_groups(prediction.logits, groups), _to_groups(prediction.boxes, groups))
            )
        return predictions


PLANS = ("sequential", "selective", "dense")
"""Of the papers: plain training, SQR and DQR."""

# name: another decoder, or this package's options that bound its memory, which override the config's
EXECUTIONS = {
    "folded": {"checkpoint_groups": False, "max_groups_per_pass": None},
    "loop": LoopingDecoder,
    "repeat": RepeatingDecoder,
    "checkpoint": {"checkpoint_groups": True, "max_groups_per_pass": None},
    "checkpoint-4": {"checkpoint_groups": True, "max_groups_per_pass": 4},
    "compile": {"checkpoint_groups": False, "max_groups_per_pass": None, "compile_stages": True},
}


@contextlib.contextmanager
def running(model: nn.Module, plan: str | Mapping | Sequence, execution: str | None = "folded") -> Iterator[None]:
    """Inside this context the model trains by a plan (:meth:`Plan.from_spec`) and an execution.

    The execution is one of ``EXECUTIONS``; None keeps the decoder's options.
    """
    decoder, how = model.decoder, {} if execution is None else EXECUTIONS[execution]
    settings = {"plan": Plan.from_spec(plan, len(decoder.stages)), **(how if isinstance(how, dict) else {})}
    before = {name: getattr(decoder, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(decoder, name, value)
        if not isinstance(how, dict):
            model.decoder = how(decoder).train(decoder.training)
        yield
    finally:
        model.decoder = decoder
        for name, value in before.items():
            setattr(decoder, name, value)


def _as_images(state: QueryState) -> QueryState:
    """``(B, G, Q, ...)`` -> ``(G * B, 1, Q, ...)``, the order of ``Tensor.repeat`` along the batch axis."""
    return _map(state, lambda x: x.transpose(0, 1).flatten(0, 1)[:, None])


def _to_groups(x: Tensor, groups: int) -> Tensor:
    """``(G * B, 1, Q, ...)`` -> ``(B, G, Q, ...)``."""
    return x.squeeze(1).unflatten(0, (groups, -1)).transpose(0, 1)


def _map(state: QueryState, function) -> QueryState:
    extras = {name: function(x) for name, x in state.extras.items()}
    return QueryState(function(state.content), function(state.reference), extras)
