"""Recollection plans: which earlier outputs enter each decoder stage.

A query-based detector refines queries through *stages*. Trained plainly, a stage sees only the output of the
stage before it. Query recollection (Chen et al., "Enhanced Training of Query-Based Object Detection via Selective
Query Recollection", CVPR 2023, arXiv 2212.07593) lets a stage see earlier outputs too, as extra, independent
*groups* of queries, in training only.

A :class:`Plan` says exactly that and nothing else. It is a tuple of steps ``(stage, sources)``: run stage module
``stage`` on the concatenation, along the group axis, of the outputs named by ``sources``. Output 0 is the initial
queries, output ``k`` is what step ``k`` produced. Steps and stages count from 1, as in the paper.

=====================  ==========================  ============================  =====
plan                   sources of step ``s``       groups with 6 stages          total
=====================  ==========================  ============================  =====
sequential             ``(s-1,)``                  1 1 1 1 1 1                   6
selective (SQR)        ``(s-2, s-1)``              1 2 3 5 8 13                  32
dense (DQR)            ``(0, ..., s-1)``           1 2 4 8 16 32                 63
dense_recurrent        dense, then the last stage  1 2 4 8 16 32 32              95
(DQRR)                 once more on its output
=====================  ==========================  ============================  =====

Older sources always come first, so the *sequential chain* (the path that inference takes) is the last group of
every step. Which groups exist, how many there are and what each one is, is answered here only; the decoder splits a
step's groups into passes and the criterion sums over them, both by the numbers of this plan.

This module is pure Python and imports nothing of PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple


class Step(NamedTuple):
    """One execution of a stage: ``stage`` counts from 1; ``sources`` are output numbers, oldest first."""

    stage: int
    sources: tuple[int, ...]


class SetInfo(NamedTuple):
    """What one supervised set of predictions is: its index, step, stage (both from 1) and path of stages."""

    index: int
    step: int
    stage: int
    path: tuple[int, ...]


class Plan:
    """An immutable recollection plan.

    Use the named constructors (:meth:`sequential`, :meth:`selective`, :meth:`dense`, :meth:`dense_recurrent`,
    :meth:`looped`, :meth:`explicit`) rather than this one.

    Args:
        steps: ``(stage, sources)`` pairs in execution order.
        num_stages: how many stage modules there are; the largest stage that a step names when None.

    Raises:
        ValueError: a step names a stage that does not exist or an output that does not exist yet, names an output
            twice, or leaves out the output of the step before it (inference would then run a chain that training
            never saw).
    """

    def __init__(self, steps: Iterable[tuple[int, Sequence[int]]], num_stages: int | None = None):
        self.steps = tuple(Step(int(stage), tuple(sorted(int(i) for i in sources))) for stage, sources in steps)
        if not self.steps:
            raise ValueError("a plan needs at least one step")
        self.num_stages = max(step.stage for step in self.steps) if num_stages is None else int(num_stages)
        for number, (stage, sources) in enumerate(self.steps, start=1):
            self._check_step(number, stage, sources)

    def _check_step(self, number: int, stage: int, sources: tuple[int, ...]) -> None:
        where = f"step {number} (stage {stage}, sources {list(sources)})"
        if not 1 <= stage <= self.num_stages:
            raise ValueError(f"{where}: there is no stage {stage}; stages are 1 to {self.num_stages}")
        if not sources:
            raise ValueError(f"{where}: a step needs at least one source")
        for source in sources:
            if not 0 <= source < number:
                raise ValueError(
                    f"{where}: output {source} does not exist yet; step {number} can take outputs 0 "
                    f"(the initial queries) to {number - 1}"
                )
        if len(set(sources)) != len(sources):
            raise ValueError(f"{where}: an output is named twice")
        if sources[-1] != number - 1:
            raise ValueError(
                f"{where}: output {number - 1} is missing, so the chain that inference runs would not be trained; "
                f"add {number - 1} to the sources"
            )

    # ------------------------------------------------------------------ named plans

    @classmethod
    def sequential(cls, num_stages: int) -> Plan:
        """The ordinary cascade: each stage sees its predecessor's output."""
        return cls((s, (s - 1,)) for s in _stage_numbers(num_stages))

    @classmethod
    def selective(cls, num_stages: int, window: int = 2, start: int = 1) -> Plan:
        """SQR: each stage sees the ``window`` most recent outputs.

        Args:
            num_stages: number of decoder stages.
            window: how many of the most recent outputs enter a stage; 2 in the paper, 1 is sequential.
            start: the stage whose *input* is the oldest output ever recollected; 1 (the released default)
                recollects from the initial queries on, ``k`` keeps the cascade sequential before stage ``k + 1``.
        """
        if window < 1:
            raise ValueError(f"window={window}: a stage needs at least its predecessor's output, so window >= 1")
        oldest = _oldest_output(num_stages, start)
        return cls((s, range(min(s - 1, max(oldest, s - window)), s)) for s in _stage_numbers(num_stages))

    @classmethod
    def dense(cls, num_stages: int, start: int = 1) -> Plan:
        """DQR: each stage sees every earlier output (from the input of stage ``start`` on)."""
        oldest = _oldest_output(num_stages, start)
        return cls((s, range(min(s - 1, oldest), s)) for s in _stage_numbers(num_stages))

    @classmethod
    def dense_recurrent(cls, num_stages: int, recurrences: int = 1) -> Plan:
        """DQRR: dense, then the last stage ``recurrences`` more times on its own output groups."""
        if recurrences < 1:
            raise ValueError(f"recurrences={recurrences}: must be at least 1 (0 would be the dense plan)")
        extra = tuple((num_stages, (num_stages + i,)) for i in range(recurrences))
        return cls(cls.dense(num_stages).steps + extra)

    @classmethod
    def looped(cls, num_stages: int, times: int = 6, stage: int | None = None) -> Plan:
        """One stage (the last one by default) run ``times`` times from the initial queries: DQRR's inference."""
        if times < 1:
            raise ValueError(f"times={times}: a stage must run at least once")
        stage = num_stages if stage is None else stage
        return cls(((stage, (i,)) for i in range(times)), num_stages=num_stages)

    @classmethod
    def explicit(cls, sources: Sequence[Sequence[int]], stages: Sequence[int] | None = None) -> Plan:
        """Any plan: the sources of each step; step ``s`` runs stage ``s`` unless ``stages`` says otherwise."""
        stages = list(range(1, len(sources) + 1)) if stages is None else list(stages)
        if len(stages) != len(sources):
            raise ValueError(f"{len(sources)} steps but {len(stages)} stages were given")
        plan = cls(zip(stages, sources, strict=True))
        missing = sorted(set(range(1, plan.num_stages + 1)) - set(stages))
        if missing:
            raise ValueError(f"no step runs stage {missing[0]}: stages 1 to {plan.num_stages} must each be trained")
        return plan

    @classmethod
    def from_spec(cls, spec: Plan | str | Mapping | Sequence, num_stages: int) -> Plan:
        """A plan from what a config or a command line can say.

        Args:
            spec: a plan; a strategy's name with the paper's defaults, that is ``sequential``, ``selective``
                (``sqr``), ``dense`` (``dqr``) or ``dense_recurrent`` (``dqrr``); a mapping of ``name`` and that
                constructor's options, such as ``{name: selective, start: 3}`` or ``{name: looped, times: 5}``; or
                the sources of each step, such as ``[[0], [0, 1], [1, 2]]``.
            num_stages: stages of the decoder that shall run it.

        Raises:
            ValueError: an unknown name or option, or an impossible plan.
        """
        if isinstance(spec, Plan):
            return spec
        if not isinstance(spec, (str, Mapping)):
            return cls.explicit(spec)
        options = {} if isinstance(spec, str) else dict(spec)
        name = spec if isinstance(spec, str) else options.pop("name", None)
        if str(name).lower() not in _NAMED_PLANS:
            raise ValueError(f"unknown recollection plan {name!r}; one of {', '.join(_NAMED_PLANS)}")
        constructor, allowed = _NAMED_PLANS[str(name).lower()]
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            takes = f"takes {', '.join(allowed)}" if allowed else "takes no options"
            raise ValueError(f"recollection plan {name!r} has no option {unknown[0]!r}; it {takes}")
        return getattr(cls, constructor)(num_stages, **options)

    # ------------------------------------------------------------------ questions

    @property
    def num_steps(self) -> int:
        return len(self.steps)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Number of query groups that each step processes, for one group of initial queries."""
        outputs = [1]
        for step in self.steps:
            outputs.append(sum(outputs[i] for i in step.sources))
        return tuple(outputs[1:])

    @property
    def total(self) -> int:
        """Number of supervised sets: the sum of :attr:`groups`."""
        return sum(self.groups)

    @cached_property
    def sets(self) -> tuple[SetInfo, ...]:
        """Every supervised set in storage order: step after step, a step's groups in concatenation order."""
        outputs: list[list[tuple[int, ...]]] = [[(0,)]]
        sets: list[SetInfo] = []
        for number, (stage, sources) in enumerate(self.steps, start=1):
            outputs.append([path + (stage,) for source in sources for path in outputs[source]])
            sets += [SetInfo(len(sets) + i, number, stage, path) for i, path in enumerate(outputs[-1])]
        return tuple(sets)

    def paths(self, step: int) -> list[str]:
        """Names of the groups of a step (from 1) in storage order: ``"0-1-3"`` went through stages 1 and 3."""
        self._check_step_number(step)
        return ["-".join(map(str, info.path)) for info in self.sets if info.step == step]

    def slice(self, step: int) -> slice:
        """Where the sets of a step (from 1) stand in :attr:`sets`."""
        self._check_step_number(step)
        begin = sum(self.groups[: step - 1])
        return slice(begin, begin + self.groups[step - 1])

    @property
    def inference_chain(self) -> tuple[int, ...]:
        """Index into :attr:`sets` of the sequential chain's set of each step: always the step's last group."""
        return tuple(self.slice(step).stop - 1 for step in range(1, self.num_steps + 1))

    @cached_property
    def step_names(self) -> tuple[str, ...]:
        """``"stage1"``, ``"stage2"``, ...; a stage that runs again is ``"stage6_again"``, ``"stage6_again2"``."""
        seen: dict[int, int] = {}
        names = []
        for step in self.steps:
            times = seen[step.stage] = seen.get(step.stage, 0) + 1
            names.append(f"stage{step.stage}" + {1: "", 2: "_again"}.get(times, f"_again{times - 1}"))
        return tuple(names)

    def initial_groups(self, step_groups: Sequence[int]) -> int:
        """How many groups of initial queries there were, from how many groups each step processed.

        Raises:
            ValueError: the numbers are not the plan's :attr:`groups`, all multiplied by the same number.
        """
        factor = step_groups[0] // self.groups[0]
        if [factor * groups for groups in self.groups] != list(step_groups) or factor < 1:
            raise ValueError(f"steps of {list(step_groups)} groups are not of the plan {self}, nor a multiple of it")
        return factor

    def last_use(self, output: int) -> int:
        """The last step (from 1) that takes an output, or 0 if none does: it can be freed afterwards."""
        return max((n for n, step in enumerate(self.steps, start=1) if output in step.sources), default=0)

    def last_run(self, stage: int) -> int:
        """The last step (from 1) that runs a stage, or 0 if none does."""
        return max((n for n, step in enumerate(self.steps, start=1) if step.stage == stage), default=0)

    def _check_step_number(self, step: int) -> None:
        if not 1 <= step <= self.num_steps:
            raise ValueError(f"step {step}: this plan has steps 1 to {self.num_steps}")

    # ------------------------------------------------------------------ value semantics

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and (self.steps, self.num_stages) == (other.steps, other.num_stages)

    def __hash__(self) -> int:
        return hash((self.steps, self.num_stages))

    def __repr__(self) -> str:
        steps = ", ".join(f"{s.stage}<-{'+'.join(map(str, s.sources))}" for s in self.steps)
        return f"Plan({steps}; groups={self.groups}, total={self.total})"


# name: (constructor, its options)
_NAMED_PLANS = {
    "sequential": ("sequential", ()),
    "selective": ("selective", ("window", "start")),
    "sqr": ("selective", ("window", "start")),
    "dense": ("dense", ("start",)),
    "dqr": ("dense", ("start",)),
    "dense_recurrent": ("dense_recurrent", ("recurrences",)),
    "dqrr": ("dense_recurrent", ("recurrences",)),
    "looped": ("looped", ("times", "stage")),
}


def _stage_numbers(num_stages: int) -> range:
    if num_stages < 1:
        raise ValueError(f"num_stages={num_stages}: a decoder needs at least one stage")
    return range(1, num_stages + 1)


def _oldest_output(num_stages: int, start: int) -> int:
    _stage_numbers(num_stages)
    if not 1 <= start <= num_stages:
        raise ValueError(f"start={start}: recollection can start at stages 1 to {num_stages}")
    return start - 1
