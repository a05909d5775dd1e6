"""Recollection plans: which earlier outputs enter each decoder stage.

A query-based detector refines queries through *stages*. In plain training, a stage sees only the output of the
previous stage. Query recollection (Chen et al., "Enhanced Training of Query-Based Object Detection via Selective
Query Recollection", CVPR 2023, arXiv 2212.07593) lets a stage see earlier outputs too, as extra, independent
*groups* of queries, in training only.

A :class:`Plan` describes exactly this. It is a tuple of steps ``(stage, sources)``: run stage module
``stage`` on the concatenation, along the group axis, of the outputs named by ``sources``. Output 0 is the initial
queries, output ``k`` is the result of step ``k``. Steps and stages count from 1, as in the paper.

=====================  ==========================  ============================  =====
plan                   sources of step ``s``       groups with 6 stages          total
=====================  ==========================  ============================  =====
sequential             ``(s-1,)``                  1 1 1 1 1 1                   6
selective (SQR)        ``(s-2, s-1)``              1 2 3 5 8 13                  32
dense (DQR)            ``(0, ..., s-1)``           1 2 4 8 16 32                 63
dense_recurrent        dense, then the last stage  1 2 4 8 16 32 32              95
(DQRR)                 once more on its output
sampled                ``s-1``'s chain, and one    1 2 2 2 2 2                   11
                       earlier group, redrawn
                       in every training step
=====================  ==========================  ============================  =====

A source is an output, with all its groups, or ``(output, group)``, one of its groups. Older sources always come first,
so the *sequential chain* (the path that inference takes) is the last group of every step. Only this module determines
which groups exist, how many there are and what each one is; the decoder splits a step's groups into passes and the
criterion sums over them, both by the numbers of the plan.

This module is pure Python and does not import PyTorch.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

Source = int | tuple[int, int]
"""An output (all its groups), or an output and one of its groups, counted from 0 in storage order."""

POOLS = ("all", "recent")


class Step(NamedTuple):
    """One execution of a stage: ``stage`` counts from 1; ``sources`` are outputs or single groups, oldest first."""

    stage: int
    sources: tuple[Source, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The output of each source."""
        return tuple(_output(source) for source in self.sources)


class SetInfo(NamedTuple):
    """One supervised set of predictions: its index, step, stage (both from 1) and path of stages."""

    index: int
    step: int
    stage: int
    path: tuple[int, ...]


class Plan:
    """An immutable recollection plan.

    Use the named constructors (:meth:`sequential`, :meth:`selective`, :meth:`dense`, :meth:`dense_recurrent`,
    :meth:`sampled`, :meth:`looped`, :meth:`explicit`) rather than this one.

    Args:
        steps: ``(stage, sources)`` pairs in execution order.
        num_stages: number of stage modules; the largest stage of any step when None.

    Attributes:
        loss_weights: factor of each step's losses; see :meth:`weighted`.

    Raises:
        ValueError: a step names a stage that does not exist or an output that does not exist yet, names a group
            twice, or omits the chain's output of the previous step (inference would then run an untrained chain).
    """

    def __init__(self, steps: Iterable[tuple[int, Sequence[Source]]], num_stages: int | None = None):
        self.steps = tuple(Step(int(stage), _sorted_sources(sources)) for stage, sources in steps)
        if not self.steps:
            raise ValueError("a plan needs at least one step")
        self.num_stages = max(step.stage for step in self.steps) if num_stages is None else int(num_stages)
        self.loss_weights: tuple[float, ...] = (1.0,) * len(self.steps)
        groups = [1]
        for number, step in enumerate(self.steps, start=1):
            self._check_step(number, step, groups)
            groups.append(sum(end - begin for _, begin, end in _parts(step, groups)))
        self.groups = tuple(groups[1:])

    def _check_step(self, number: int, step: Step, groups: Sequence[int]) -> None:
        stage, sources = step
        where = f"step {number} (stage {stage}, sources {[list(s) if isinstance(s, tuple) else s for s in sources]})"
        if not 1 <= stage <= self.num_stages:
            raise ValueError(f"{where}: there is no stage {stage}; stages are 1 to {self.num_stages}")
        if not sources:
            raise ValueError(f"{where}: a step needs at least one source")
        for source in sources:
            output = _output(source)
            if not 0 <= output < number:
                raise ValueError(
                    f"{where}: output {output} does not exist yet; step {number} can take outputs 0 "
                    f"(the initial queries) to {number - 1}"
                )
            if isinstance(source, tuple) and not 0 <= source[1] < groups[output]:
                raise ValueError(
                    f"{where}: output {output} has no group {source[1]}; its groups are 0 to {groups[output] - 1}"
                )
        taken = [(output, group) for output, begin, end in _parts(step, groups) for group in range(begin, end)]
        if len(set(taken)) != len(taken):
            raise ValueError(f"{where}: an output or group is named twice")
        if taken[-1] != (number - 1, groups[number - 1] - 1):
            raise ValueError(
                f"{where}: output {number - 1} is missing, so the chain that inference runs would not be trained; "
                f"add {number - 1} to the sources"
            )

    # ------------------------------------------------------------------ named plans

    @classmethod
    def sequential(cls, num_stages: int, stages: int | None = None) -> Plan:
        """The ordinary cascade: each stage sees its predecessor's output.

        Args:
            num_stages: number of decoder stages.
            stages: run only the first ones; all when None. At inference this trades AP for speed.
        """
        numbers = _stage_numbers(num_stages)
        if stages is not None and not 1 <= stages <= num_stages:
            raise ValueError(f"stages={stages}: the decoder has stages 1 to {num_stages}")
        return cls(((s, (s - 1,)) for s in numbers[:stages]), num_stages=num_stages)

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

    @staticmethod
    def sampled(num_stages: int, extra: int = 1, pool: str = "all") -> SampledPlan:
        """The chain, and ``extra`` earlier groups drawn in every training step; see SampledPlan."""
        return SampledPlan(num_stages, extra=extra, pool=pool)

    @classmethod
    def explicit(cls, sources: Sequence[Sequence[Source]], stages: Sequence[int] | None = None) -> Plan:
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
        """Make a plan from a config or command-line value.

        Args:
            spec: a plan; a strategy's name with the paper's defaults: ``sequential``, ``selective``
                (``sqr``), ``dense`` (``dqr``), ``dense_recurrent`` (``dqrr``) or ``sampled``; a mapping of ``name``
                and that constructor's options, such as ``{name: selective, start: 3}``, ``{name: looped, times: 5}``
                or ``{name: explicit, sources: [[0], [0, 1]]}``, and ``loss_weights`` (:meth:`weighted`); or the
                sources of each step, such as ``[[0], [0, 1], [1, 2]]``.
            num_stages: stages of the decoder that will run it.

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
        allowed = (*allowed, "loss_weights")
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise ValueError(f"recollection plan {name!r} has no option {unknown[0]!r}; it takes {', '.join(allowed)}")
        weights = options.pop("loss_weights", None)
        if constructor == "explicit":
            if "sources" not in options:
                raise ValueError(f"recollection plan {name!r} needs sources, such as [[0], [0, 1], [1, 2]]")
            plan = cls.explicit(**options)
        else:
            plan = getattr(cls, constructor)(num_stages, **options)
        return plan if weights is None else plan.weighted(weights)

    def weighted(self, loss_weights: Sequence[float]) -> Plan:
        """The same plan with a weight for the losses of each step.

        A step with weight 0 runs but is neither matched nor supervised. If each stage has its own heads, as with box
        refinement, the heads of such a stage get no gradient and keep their initial weights; the stage is trained
        only through later ones.

        Raises:
            ValueError: not one finite, nonnegative weight for each step, or all are 0.
        """
        weights = tuple(float(weight) for weight in loss_weights)
        if len(weights) != self.num_steps:
            raise ValueError(f"loss_weights has {len(weights)} entries for {self.num_steps} steps of {self}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f"loss_weights={list(weights)}: finite numbers of at least 0, not all of them 0")
        plan = copy.copy(self)
        plan.loss_weights = weights
        return plan

    def draw(self, number: int) -> Plan:
        """The plan that training step ``number`` runs: the plan itself, unless it is a :class:`SampledPlan`."""
        return self

    # ------------------------------------------------------------------ questions

    @property
    def num_steps(self) -> int:
        return len(self.steps)

    @property
    def total(self) -> int:
        """Number of sets of predictions: the sum of :attr:`groups`."""
        return sum(self.groups)

    def parts(self, step: int) -> tuple[tuple[int, int, int], ...]:
        """The groups that enter a step (from 1), in order: ``(output, first group, one past the last group)``."""
        self._check_step_number(step)
        return _parts(self.steps[step - 1], (1, *self.groups))

    @cached_property
    def sets(self) -> tuple[SetInfo, ...]:
        """Every set of predictions in storage order: by step, a step's groups in concatenation order."""
        outputs: list[list[tuple[int, ...]]] = [[(0,)]]
        sets: list[SetInfo] = []
        for number, (stage, _) in enumerate(self.steps, start=1):
            parents = [path for output, begin, end in self.parts(number) for path in outputs[output][begin:end]]
            outputs.append([(*path, stage) for path in parents])
            sets += [SetInfo(len(sets) + i, number, stage, path) for i, path in enumerate(outputs[-1])]
        return tuple(sets)

    def paths(self, step: int) -> list[str]:
        """Names of the groups of a step (from 1) in storage order: ``"0-1-3"`` went through stages 1 and 3."""
        self._check_step_number(step)
        return ["-".join(map(str, info.path)) for info in self.sets if info.step == step]

    def slice(self, step: int) -> slice:
        """The slice of a step (from 1) in :attr:`sets`."""
        self._check_step_number(step)
        begin = sum(self.groups[: step - 1])
        return slice(begin, begin + self.groups[step - 1])

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
        """The number of groups of initial queries, from the number of groups of each step.

        Raises:
            ValueError: the numbers are not a multiple of the plan's :attr:`groups`.
        """
        factor = step_groups[0] // self.groups[0]
        if [factor * groups for groups in self.groups] != list(step_groups) or factor < 1:
            raise ValueError(f"steps of {list(step_groups)} groups are not of the plan {self}, nor a multiple of it")
        return factor

    def last_use(self, output: int) -> int:
        """The last step (from 1) that uses an output, after which it can be freed; 0 if none does."""
        return max((n for n, step in enumerate(self.steps, start=1) if output in step.outputs), default=0)

    def last_run(self, stage: int) -> int:
        """The last step (from 1) that runs a stage, or 0 if none does."""
        return max((n for n, step in enumerate(self.steps, start=1) if step.stage == stage), default=0)

    def _check_step_number(self, step: int) -> None:
        if not 1 <= step <= self.num_steps:
            raise ValueError(f"step {step}: this plan has steps 1 to {self.num_steps}")

    # ------------------------------------------------------------------ value semantics

    @property
    def _identity(self) -> tuple:
        return self.steps, self.num_stages, self.loss_weights

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text}; groups={self.groups}, total={self.total})"

    @property
    def _text(self) -> str:
        steps = ", ".join(f"{s.stage}<-{'+'.join(map(_source_text, s.sources))}" for s in self.steps)
        return steps if set(self.loss_weights) == {1.0} else f"{steps}; loss_weights={self.loss_weights}"


class SampledPlan(Plan):
    """Sampled recollection: each step runs the chain and a few earlier groups, drawn in every training step.

    Step ``s`` draws uniformly and without replacement among the groups available by then, except the chain's newest,
    which it always runs. The number of groups of a step does not depend on the draw, and neither do time and memory.

    The object itself is draw number 0, so that its paths and its figure are typical. :meth:`draw` returns the others.

    Args:
        num_stages: number of decoder stages.
        extra: groups that each step draws; the whole pool if it is smaller.
        pool: ``"all"`` groups of earlier outputs, or only those of the two most ``"recent"`` (as SQR's sources).

    Raises:
        ValueError: no stage, ``extra`` below 1 or an unknown pool.
    """

    def __init__(self, num_stages: int, *, extra: int = 1, pool: str = "all"):
        if extra < 1:
            raise ValueError(f"extra={extra}: must be at least 1 (0 would be the sequential plan)")
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r}: one of {', '.join(POOLS)}")
        self.extra, self.pool = int(extra), pool
        super().__init__(self._steps(num_stages, 0), num_stages=num_stages)

    def draw(self, number: int) -> Plan:
        """The plan of training step ``number``: the same in every process and after a resume."""
        plan = Plan(self._steps(self.num_stages, number), num_stages=self.num_stages)
        return plan.weighted(self.loss_weights)

    def expected_sources(self, step: int) -> dict[int, float]:
        """The average number of groups of each output that enter a step (from 1), including the chain."""
        self._check_step_number(step)
        pool = self._pool(step, (1, *self.groups))
        share = min(self.extra, len(pool)) / max(len(pool), 1)
        expected = {output: sum(o == output for o, _ in pool) * share for output in sorted({o for o, _ in pool})}
        expected[step - 1] = expected.get(step - 1, 0.0) + 1.0
        return expected

    def _steps(self, num_stages: int, number: int) -> list[Step]:
        generator = random.Random(number)
        groups, steps = [1], []
        for stage in _stage_numbers(num_stages):
            pool = self._pool(stage, groups)
            drawn = generator.sample(pool, min(self.extra, len(pool)))
            steps.append(Step(stage, (*drawn, (stage - 1, groups[-1] - 1))))
            groups.append(len(drawn) + 1)
        return steps

    def _pool(self, step: int, groups: Sequence[int]) -> list[tuple[int, int]]:
        """The groups that a step draws from, given the number of groups of each output."""
        first = 0 if self.pool == "all" else max(step - 2, 0)
        pool = [(output, group) for output in range(first, step) for group in range(groups[output])]
        return pool[:-1]  # the last one is the chain

    @property
    def _identity(self) -> tuple:
        return self.num_stages, self.extra, self.pool, self.loss_weights

    @property
    def _text(self) -> str:
        weights = "" if set(self.loss_weights) == {1.0} else f", loss_weights={self.loss_weights}"
        return f"{self.num_stages} stages, extra={self.extra}, pool={self.pool}{weights}"


# name: (constructor, its options)
_NAMED_PLANS = {
    "sequential": ("sequential", ("stages",)),
    "selective": ("selective", ("window", "start")),
    "sqr": ("selective", ("window", "start")),
    "dense": ("dense", ("start",)),
    "dqr": ("dense", ("start",)),
    "dense_recurrent": ("dense_recurrent", ("recurrences",)),
    "dqrr": ("dense_recurrent", ("recurrences",)),
    "sampled": ("sampled", ("extra", "pool")),
    "looped": ("looped", ("times", "stage")),
    "explicit": ("explicit", ("sources", "stages")),
}


def _output(source: Source) -> int:
    return source[0] if isinstance(source, tuple) else source


def _sorted_sources(sources: Sequence[Source]) -> tuple[Source, ...]:
    plain = [int(s) if isinstance(s, int) else _single_group(s) for s in sources]
    return tuple(sorted(plain, key=lambda s: s if isinstance(s, tuple) else (s, -1)))


def _single_group(source: object) -> tuple[int, int]:
    try:
        output, group = source
        return int(output), int(group)
    except (TypeError, ValueError):
        raise ValueError(
            f"source {source!r}: must be an output, such as 2, or an output and one of its groups, such as [2, 0]"
        ) from None


def _source_text(source: Source) -> str:
    return f"{source[0]}[{source[1]}]" if isinstance(source, tuple) else str(source)


def _parts(step: Step, groups: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """The groups that enter a step, given the number of groups of each output; see :meth:`Plan.parts`."""
    return tuple(
        (source[0], source[1], source[1] + 1) if isinstance(source, tuple) else (source, 0, groups[source])
        for source in step.sources
    )


def _stage_numbers(num_stages: int) -> range:
    if num_stages < 1:
        raise ValueError(f"num_stages={num_stages}: a decoder needs at least one stage")
    return range(1, num_stages + 1)


def _oldest_output(num_stages: int, start: int) -> int:
    _stage_numbers(num_stages)
    if not 1 <= start <= num_stages:
        raise ValueError(f"start={start}: recollection can start at stages 1 to {num_stages}")
    return start - 1
