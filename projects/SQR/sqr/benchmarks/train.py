"""A training step by plan and by execution: ``benchmark.py train``.

The parts of a step, seconds each: forward, loss (matching included), backward, optimizer. Plans are run by this package
("folded": groups are more queries of the same image). The SQR plan is also run by a loop over groups ("loop"), by
repeating the memory along the batch axis as the released implementations do ("repeat"), and with the options that bound
its memory ("checkpoint": ``checkpoint_groups``; "checkpoint-4": ``max_groups_per_pass=4`` too). All give the same
losses, which is checked first. Weights, images and objects are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from omegaconf import DictConfig
from tabulate import tabulate

from ..errors import UserError
from .executions import EXECUTIONS, running
from .flops import forward_flops, step_flops
from .ops import describe_machine
from .peak import PARTS, Measurement, measure
from .subjects import (
    Subject,
    add_subject_arguments,
    load_subject_config,
    random_batch,
    with_threads,
    without_dropout,
)
from .timing import TOTAL, Laps, interleaved_parts, least_disturbed

PLANS = ("sequential", "selective", "dense")
VARIANTS = {plan: (plan, "folded") for plan in PLANS} | {
    f"selective-{execution}": ("selective", execution) for execution in EXECUTIONS if execution != "folded"
}
_DEFAULT = (*PLANS, "selective-loop", "selective-repeat")
TOLERANCE = 1e-3  # relative, of each loss: float32 sums in another order, through six stages
_STEP_PARTS = ("forward", "loss", "backward", "optimizer", TOTAL)
_GIGABYTE = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        help=f"of {', '.join(VARIANTS)}",
        default=list(_DEFAULT),
        metavar="VARIANT",
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="what to time")
    parser.add_argument("--memory", nargs="*", choices=PARTS, default=["step"], help="whose peak memory to measure")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scaling", action="store_true", help="also twice the queries and twice the groups")
    parser.add_argument("--profile", choices=VARIANTS, metavar="VARIANT", help="also where its step's time goes")
    parser.add_argument(
        "--flops", action="store_true", help="also the operations by plan, of the forward pass and of the step"
    )


@with_threads
def run(args: argparse.Namespace) -> dict:
    """Check, time, measure, print tables."""
    cfg = load_subject_config(args)
    report = {"machine": describe_machine(args.device), "arguments": _plain(vars(args)), "clock": None}
    report["clock"] = least_disturbed(args.device)
    subject = Subject.from_config(cfg, seed=args.seed)
    batch = _batch(args, subject)
    report["largest_difference"] = check_executions(subject, batch, args.variants)
    if report["largest_difference"] is not None:
        print(f"losses of all executions agree within {report['largest_difference']:.1e}")
    for part in args.parts:
        report[part] = time_part(part, subject, batch, args)
        print_times(part, report[part], report["clock"])
    if args.scaling:
        report["scaling"] = scaling(cfg, args)
        print_scaling(report["scaling"])
    if args.flops:
        report["flops"] = flops_by_plan(subject, batch, args)
        print_flops(report, args)
    if args.profile:
        report["profile"] = profile(subject, batch, args)
        _print_table(f"operators of a step of {args.profile}, by their own time", report["profile"])
    if args.memory:
        report["memory"] = memory(args)
        print_memory(report["memory"])
    return report


def check_executions(subject: Subject, batch: list[dict], variants: list[str]) -> float | None:
    """Run every variant of a plan that has several, without dropout.

    Returns:
        The largest relative difference of a loss; None where no plan has several variants.

    Raises:
        UserError: it is above ``TOLERANCE``.
    """
    losses: dict[str, tuple[str, Mapping]] = {}
    worst = None
    plans = [VARIANTS[variant][0] for variant in variants]
    for variant in variants:
        plan, execution = VARIANTS[variant]
        if plans.count(plan) == 1:
            continue
        with running(subject.model, plan, execution), without_dropout(subject.model), torch.no_grad():
            found = {name: float(value) for name, value in subject.model(batch).items()}
        first, expected = losses.setdefault(plan, (variant, found))
        difference = max(abs(found[name] - expected[name]) / max(abs(expected[name]), 1e-6) for name in expected)
        if found.keys() != expected.keys() or not difference <= TOLERANCE:
            raise UserError(f"the losses of {variant} and {first} differ by a share of {difference:.1e}")
        worst = max(worst or 0.0, difference)
    return worst


def time_part(part: str, subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict:
    """Interleaved times of every variant's whole step, or of what comes after the encoder."""
    memory, targets = subject.encode(batch) if part == "decoder" else (None, None)

    def call(plan: str, execution: str) -> Callable[[Laps], object]:
        def timed(laps: Laps) -> None:
            with running(subject.model, plan, execution):
                if part == "decoder":
                    subject.decoder_step(memory, targets, laps)
                else:
                    subject.step(batch, laps)

        return timed

    variants = {name: call(*VARIANTS[name]) for name in args.variants}
    return interleaved_parts(variants, device=args.device, repeats=args.repeats)


def scaling(cfg: DictConfig, args: argparse.Namespace) -> dict:
    """Times of the SQR plan and of nearly twice its groups (dense: 63 for 32), and of twice the queries."""
    queries = cfg.model.query_generator.num_queries
    calls, subjects = {}, {}
    for times in (1, 2):
        cfg.model.query_generator.num_queries = times * queries
        subject = subjects[times] = Subject.from_config(cfg, seed=args.seed)
        memory, targets = subject.encode(_batch(args, subject))
        for plan in PLANS if times == 1 else ("selective",):

            def timed(laps: Laps, subject=subject, memory=memory, targets=targets, plan=plan) -> None:
                with running(subject.model, plan):
                    subject.decoder_step(memory, targets, laps)

            calls[f"{plan}, {times * queries} queries"] = timed
    cfg.model.query_generator.num_queries = queries
    parts = interleaved_parts(calls, device=args.device, repeats=args.repeats)
    totals = [times[TOTAL][least_disturbed(args.device)] for times in parts.values()]
    sequential, selective, dense, more_queries = totals
    groups = {}
    for plan in PLANS:
        with running(subjects[1].model, plan):
            groups[plan] = subjects[1].model.decoder.plan.total
    per_group = [
        (dense - selective) / (groups["dense"] - groups["selective"]),
        (selective - sequential) / (groups["selective"] - groups["sequential"]),
    ]
    return {
        "times": parts,
        "groups": groups,
        "twice_the_queries": more_queries / selective,
        "twice_the_groups": dense / selective,
        "further_group_ms": per_group,
    }


def profile(subject: Subject, batch: list[dict], args: argparse.Namespace, rows: int = 15) -> list[dict]:
    """The operators that take most of a step after a first one, with their own time in seconds and share."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if args.device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with running(subject.model, *VARIANTS[args.profile]):
        subject.step(batch)
        with torch.profiler.profile(activities=activities) as profiler:
            subject.step(batch)
    events = profiler.key_averages()
    kind = "cpu" if args.device == "cpu" else "device"
    times = sorted(((getattr(e, f"self_{kind}_time_total") / 1e6, e) for e in events), key=lambda x: -x[0])
    total = sum(seconds for seconds, _ in times)
    return [
        {"operator": e.key, "calls": e.count, "seconds": seconds, "share": seconds / total}
        for seconds, e in times[:rows]
    ]


def flops_by_plan(subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Multiply-adds of the forward pass and of the whole step, by plan."""
    found = {}
    for plan in dict.fromkeys(VARIANTS[v][0] for v in args.variants):
        with running(subject.model, plan):
            forward = sum(forward_flops(subject.model, tuple(args.size), args.batch).values())
            found[plan] = {"forward": forward, "step": step_flops(lambda: subject.step(batch))}
    return found


def memory(args: argparse.Namespace) -> dict[str, dict[str, dict[str, int]]]:
    """Measured bytes by part and variant."""
    shared = {key: getattr(args, key) for key in ("config_file", "overrides", "batch", "objects", "device", "threads")}
    return {
        part: {
            name: asdict(
                measure(
                    Measurement(
                        **shared,
                        size=tuple(args.size),
                        seed=args.seed,
                        plan=VARIANTS[name][0],
                        execution=VARIANTS[name][1],
                        part=part,
                    )
                )
            )
            for name in args.variants
        }
        for part in args.memory
    }


def print_times(part: str, times: dict, clock: str) -> None:
    """A row a variant: seconds of each part, and the total as a multiple of the first variant's and of "selective"."""
    names = [p for p in _STEP_PARTS if p in next(iter(times.values()))]
    totals = {variant: parts[TOTAL][clock] for variant, parts in times.items()}
    first = next(iter(totals))
    rows = []
    for variant, parts in times.items():
        row = {part: variant, **{name: parts[name][clock] / 1e3 for name in names}}
        row[f"/ {first}"] = totals[variant] / totals[first]
        if "selective" in totals:
            row["/ selective"] = totals[variant] / totals["selective"]
        rows.append(row)
    title = "whole step" if part == "step" else "initial queries, decoder and loss, given the memory"
    _print_table(f"{title}, seconds ({'CPU time' if clock == 'cpu_ms' else 'wall time'})", rows)


def print_scaling(found: dict) -> None:
    print(
        f"\nscaling of decoder and loss: twice the queries {found['twice_the_queries']:.2f} times the time, "
        f"{found['groups']['dense']} groups for {found['groups']['selective']} {found['twice_the_groups']:.2f} times; "
        f"a further group takes {found['further_group_ms'][0]:.1f} ms there and {found['further_group_ms'][1]:.1f} ms "
        f"between {found['groups']['sequential']} and {found['groups']['selective']}"
    )


def print_flops(report: dict, args: argparse.Namespace) -> None:
    """Operations by plan, and how a step's time grows against them."""
    flops = report["flops"]
    first = next(iter(flops))
    rows = []
    for plan, count in flops.items():
        row = {"operations": plan}
        for part in ("forward", "step"):
            row |= {f"{part}, GFLOP": count[part] / 1e9, f"{part} / {first}": count[part] / flops[first][part]}
        if "step" in report:
            totals = {name: parts[TOTAL][report["clock"]] for name, parts in report["step"].items()}
            if {plan, first} <= totals.keys():
                grown = totals[plan] / totals[first]
                row |= {f"time / {first}": grown, "time / flops": grown / row[f"step / {first}"]}
        rows.append(row)
    _print_table(
        f"multiply-adds of the forward pass (fvcore) and of the whole step (PyTorch), {args.batch} images", rows
    )


def print_memory(found: dict) -> None:
    """A row a variant: peak, the step's own share of it, and multiples of the first variant's."""
    for part, peaks in found.items():
        first = next(iter(peaks.values()))
        selective = peaks.get("selective")
        rows = []
        for name, peak in peaks.items():
            row = {part: name, "peak": peak["peak"] / _GIGABYTE, "of it state": peak["state"] / _GIGABYTE}
            row[f"/ {next(iter(peaks))}"] = peak["peak"] / first["peak"]
            row["over it"] = (peak["peak"] - first["peak"]) / _GIGABYTE
            if selective and selective["peak"] > first["peak"]:
                row["over it / selective's"] = (peak["peak"] - first["peak"]) / (selective["peak"] - first["peak"])
            rows.append(row)
        _print_table(f"peak memory of the {'step' if part == 'step' else 'part after the encoder'}, GB", rows)


def _print_table(title: str, rows: list[dict]) -> None:
    print(f"\n{title}\n{tabulate(rows, headers='keys', tablefmt='github', floatfmt='.3f')}", flush=True)


def _batch(args: argparse.Namespace, subject: Subject) -> list[dict]:
    return random_batch(
        tuple(args.size),
        images=args.batch,
        objects=args.objects,
        num_classes=subject.model.num_classes,
        seed=args.seed,
    )


def _plain(values: Mapping) -> dict:
    return {key: value if isinstance(value, (int, float, list, str)) else str(value) for key, value in values.items()}
