"""The tables of ``benchmark.py train``."""

from __future__ import annotations

import argparse

from .reporting import GIGABYTE, print_table
from .timing import FIRST, TOTAL
from .variants import VARIANTS, multiples

_STEP_PARTS = ("forward", "loss", "backward", "optimizer", TOTAL)
COMPILING = "first call, compiling"


def print_times(part: str, times: dict, clock: str) -> None:
    """One row per variant: seconds of each part and of the total, and ratios to other variants (:func:`multiples`)."""
    names = [p for p in _STEP_PARTS if p in next(iter(times.values()))]
    totals = multiples({variant: parts[TOTAL][clock] for variant, parts in times.items()})
    any_compiled = any(VARIANTS[variant].compiled for variant in times)
    rows = []
    for variant, parts in times.items():
        row = {part: variant, **{name: parts[name][clock] / 1e3 for name in names}, **totals[variant]}
        if any_compiled:
            compiled = VARIANTS[variant].compiled
            row[COMPILING] = parts[FIRST]["median_ms"] / 1e3 if compiled else None
        rows.append(row)
    title = "whole step" if part == "step" else "initial queries, decoder and loss, given the memory"
    print_table(f"{title}, seconds ({'CPU time' if clock == 'cpu_ms' else 'wall time'})", rows)


def print_flops(report: dict, args: argparse.Namespace) -> None:
    """Operations by plan, and the growth of the step time relative to theirs."""
    flops = report["flops"]
    first = next(iter(flops))
    rows = []
    for plan, count in flops.items():
        row = {"operations": plan, "GFLOP": count / 1e9, f"/ {first}": count / flops[first]}
        if "step" in report:
            totals = {name: parts[TOTAL][report["clock"]] for name, parts in report["step"].items()}
            if {plan, first} <= totals.keys():
                grown = totals[plan] / totals[first]
                row |= {f"time / {first}": grown, "time / flops": grown / row[f"/ {first}"]}
        rows.append(row)
    print_table(f"multiply-adds of a step, {args.batch} images", rows)


def print_memory(found: dict) -> None:
    """One row per variant: peak, the step's share of it, and ratios to other variants."""
    for part, peaks in found.items():
        first = next(iter(peaks))
        over = {name: peak["peak"] - peaks[first]["peak"] for name, peak in peaks.items()}
        of_peak = multiples({name: peak["peak"] for name, peak in peaks.items()})
        rows = []
        for name, peak in peaks.items():
            row = {part: name, "peak": peak["peak"] / GIGABYTE, "of it state": peak["state"] / GIGABYTE}
            row |= {**of_peak[name], f"over {first}": over[name] / GIGABYTE}
            if over.get("selective", 0) > 0:
                row["over it / selective's"] = over[name] / over["selective"]
            rows.append(row)
        print_table(f"peak memory of the {'step' if part == 'step' else 'part after the encoder'}, GB", rows)
