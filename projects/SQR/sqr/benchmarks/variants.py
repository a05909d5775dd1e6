"""What ``benchmark.py train`` compares: plans, their executions, and precisions."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from .executions import EXECUTIONS, PLANS, running
from .subjects import Subject

PRECISIONS = {"bf16": torch.bfloat16}
"""Of autocast, besides what the config says."""


class Variant(NamedTuple):
    """A plan, its execution (one of ``EXECUTIONS``) and precision (one of ``PRECISIONS``); None follows the config."""

    plan: str
    execution: str = "folded"
    precision: str | None = None

    @property
    def name(self) -> str:
        """``PLAN[-EXECUTION][-PRECISION]``."""
        execution = None if self.execution == "folded" else self.execution
        return "-".join(filter(None, (self.plan, execution, self.precision)))

    @property
    def compiled(self) -> bool:
        return self.execution == "compile"

    @property
    def overrides(self) -> list[str]:
        """The overrides that give a config this precision."""
        if self.precision is None:
            return []
        dtype = str(PRECISIONS[self.precision]).removeprefix("torch.")
        return ["train.amp.enabled=True", f"train.amp.dtype={dtype}"]

    @contextlib.contextmanager
    def of(self, subject: Subject) -> Iterator[None]:
        """Inside this context the subject's steps are this variant's."""
        with (
            running(subject.model, self.plan, self.execution),
            subject.precision(PRECISIONS.get(self.precision)),
        ):
            yield


VARIANTS = {v.name: v for v in itertools.starmap(Variant, itertools.product(PLANS, EXECUTIONS, (None, *PRECISIONS)))}
GRAMMAR = (
    f"PLAN[-EXECUTION][-PRECISION]: {', '.join(PLANS)}; {', '.join(e for e in EXECUTIONS if e != 'folded')}; "
    f"{', '.join(PRECISIONS)}"
)


def variant_name(text: str) -> str:
    """An argument of a command line.

    Raises:
        argparse.ArgumentTypeError: no such variant.
    """
    if text not in VARIANTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not {GRAMMAR}")
    return text


def multiples(values: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Columns of a table: each variant's value as a multiple of others'.

    Relative to the first variant; to the first of the same plan, which shows the effect of an execution or precision;
    and to the plain plan in the same execution and precision, which shows the cost of recollection there. The last two
    are left out if they add nothing new.
    """
    variants = [VARIANTS[name] for name in values]
    first = next(iter(values))
    own_first = {v.plan: v.name for v in reversed(variants)}
    columns: dict[str, dict[str, float | None]] = {name: {} for name in values}
    for variant, (name, value) in zip(variants, values.items(), strict=True):
        columns[name][f"/ {first}"] = value / values[first]
        if len(own_first) < len(variants):
            columns[name]["/ first of its plan"] = value / values[own_first[variant.plan]]
        if sum(v.plan == PLANS[0] for v in variants) > 1:
            plain = values.get(variant._replace(plan=PLANS[0]).name)
            columns[name][f"/ {PLANS[0]} alike"] = value / plain if plain else None
    return columns
