"""A training step by plan, by execution and by precision: ``benchmark.py train``.

The parts of a step, seconds each: forward, loss (matching included), backward, optimizer. Plans are run by this package
(groups are more queries of the same image). Each can also be run by a loop over groups ("loop"), by repeating the
memory along the batch axis as the released implementations do ("repeat"), with the options that bound its memory
("checkpoint": ``checkpoint_groups``; "checkpoint-4": ``max_groups_per_pass=4`` too) and with compiled stages
("compile"). All give the same losses, which is checked first. "bf16" is the same step under autocast. Weights, images
and objects are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from omegaconf import DictConfig

from ..errors import UserError
from .executions import PLANS, running
from .flops import forward_flops, step_flops
from .peak import PARTS, Measurement, measure
from .reporting import benchmark
from .step_profile import by_operator, by_part, marked_parts, print_profiles, profile_step
from .subjects import Subject, add_subject_arguments, load_subject_config, random_batch, without_dropout
from .timing import TOTAL, Laps, interleaved_parts, least_disturbed
from .train_tables import print_flops, print_memory, print_scaling, print_times
from .variants import GRAMMAR, VARIANTS, Variant, variant_name

_DEFAULT = (*PLANS, "selective-loop", "selective-repeat")
TOLERANCE = 1e-3  # relative, of each loss: float32 sums in another order, through six stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser)
    variants = {"nargs": "+", "type": variant_name, "metavar": "VARIANT"}
    parser.add_argument("--variants", **variants, default=list(_DEFAULT), help=GRAMMAR)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="what to time")
    parser.add_argument("--memory", nargs="*", choices=PARTS, default=["step"], help="whose peak memory to measure")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scaling", action="store_true", help="also twice the queries and twice the groups")
    parser.add_argument(
        "--profile", **variants, help="also where their steps' time goes, by part of the model and by operator"
    )
    parser.add_argument(
        "--flops", action="store_true", help="also the operations by plan, of the forward pass and of the step"
    )


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Check, time, measure, print tables."""
    cfg = load_subject_config(args)
    report = {"clock": least_disturbed(args.device)}
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
        print_profiles(report["profile"])
    if args.memory:
        report["memory"] = memory(args)
        print_memory(report["memory"])
    return report


def check_executions(subject: Subject, batch: list[dict], names: list[str]) -> float | None:
    """Run every variant of a plan that has several, without dropout; those in another precision are not compared.

    Returns:
        The largest relative difference of a loss; None where no plan has several variants.

    Raises:
        UserError: it is above ``TOLERANCE``.
    """
    variants = [VARIANTS[name] for name in names if VARIANTS[name].precision is None]
    losses: dict[str, tuple[str, Mapping]] = {}
    worst = None
    for variant in variants:
        if sum(other.plan == variant.plan for other in variants) == 1:
            continue
        with variant.of(subject), without_dropout(subject.model), torch.no_grad():
            found = {name: float(value) for name, value in subject.model(batch).items()}
        first, expected = losses.setdefault(variant.plan, (variant.name, found))
        difference = max(abs(found[name] - expected[name]) / max(abs(expected[name]), 1e-6) for name in expected)
        if found.keys() != expected.keys() or not difference <= TOLERANCE:
            raise UserError(f"the losses of {variant.name} and {first} differ by a share of {difference:.1e}")
        worst = max(worst or 0.0, difference)
    if any(variant.compiled for variant in variants):
        torch.compiler.reset()  # what was compiled for this has no place among what the steps compile
    return worst


def time_part(part: str, subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict:
    """Interleaved times of every variant's whole step, or of what comes after the encoder."""
    memory, targets = subject.encode(batch) if part == "decoder" else (None, None)

    def call(variant: Variant) -> Callable[[Laps], object]:
        def timed(laps: Laps) -> None:
            with variant.of(subject):
                laps.start()  # without what it takes to become this variant
                if part == "decoder":
                    subject.decoder_step(memory, targets, laps)
                else:
                    subject.step(batch, laps)

        return timed

    variants = {name: call(VARIANTS[name]) for name in args.variants}
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


def profile(subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict[str, dict[str, list[dict]]]:
    """By variant, where the time of a step after a first one goes: by part of the model and by operator."""
    found = {}
    for name in args.profile:
        variant = VARIANTS[name]
        with variant.of(subject):
            subject.step(batch)
            with marked_parts(subject.model, inside_stages=not variant.compiled):
                profiler = profile_step(lambda: subject.step(batch), device=args.device)
        found[name] = {
            "parts": by_part(profiler, device=args.device),
            "operators": by_operator(profiler, device=args.device),
        }
    return found


def flops_by_plan(subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Multiply-adds of the forward pass and of the whole step, by plan."""
    found = {}
    for plan in dict.fromkeys(VARIANTS[name].plan for name in args.variants):
        with running(subject.model, plan):
            forward = sum(forward_flops(subject.model, tuple(args.size), args.batch).values())
            found[plan] = {"forward": forward, "step": step_flops(lambda: subject.step(batch))}
    return found


def memory(args: argparse.Namespace) -> dict[str, dict[str, dict[str, int]]]:
    """Measured bytes by part and variant."""
    return {
        part: {name: asdict(measure(_measurement(args, VARIANTS[name], part))) for name in args.variants}
        for part in args.memory
    }


def _measurement(args: argparse.Namespace, variant: Variant, part: str) -> Measurement:
    return Measurement.of(
        args,
        overrides=[*args.overrides, *variant.overrides],
        size=tuple(args.size),
        plan=variant.plan,
        execution=variant.execution,
        part=part,
    )


def _batch(args: argparse.Namespace, subject: Subject) -> list[dict]:
    return random_batch(
        tuple(args.size),
        images=args.batch,
        objects=args.objects,
        num_classes=subject.model.num_classes,
        seed=args.seed,
    )
