"""A training step by plan, by execution and by precision: ``benchmark.py train``.

Times the parts of a step: forward, loss (including matching), backward, optimizer. Plans are run by this package
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

from ..errors import UserError
from .executions import PLANS, running
from .flops import step_flops
from .peak import PARTS, Measurement, measure
from .reporting import benchmark
from .subjects import Subject, add_subject_arguments, load_subject_config, random_batch, without_dropout
from .timing import Laps, interleaved_parts, least_disturbed
from .train_tables import print_flops, print_memory, print_times
from .variants import GRAMMAR, VARIANTS, Variant, variant_name

_DEFAULT = (*PLANS, "selective-loop", "selective-repeat")
TOLERANCE = 1e-3  # relative, of each loss: float32 sums in a different order, through six stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser)
    parser.add_argument(
        "--variants", nargs="+", type=variant_name, metavar="VARIANT", default=list(_DEFAULT), help=GRAMMAR
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="what to time")
    parser.add_argument("--memory", nargs="*", choices=PARTS, default=["step"], help="whose peak memory to measure")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flops", action="store_true", help="also the operations of a step by plan")


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
    if args.flops:
        report["flops"] = flops_by_plan(subject, batch, args)
        print_flops(report, args)
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
        torch.compiler.reset()  # what was compiled for this check must not count in the timed steps
    return worst


def time_part(part: str, subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict:
    """Interleaved times of every variant's whole step, or of the part after the encoder."""
    memory, targets = subject.encode(batch) if part == "decoder" else (None, None)

    def call(variant: Variant) -> Callable[[Laps], object]:
        def timed(laps: Laps) -> None:
            with variant.of(subject):
                laps.start()  # without the cost of switching to this variant
                if part == "decoder":
                    subject.decoder_step(memory, targets, laps)
                else:
                    subject.step(batch, laps)

        return timed

    variants = {name: call(VARIANTS[name]) for name in args.variants}
    return interleaved_parts(variants, device=args.device, repeats=args.repeats)


def flops_by_plan(subject: Subject, batch: list[dict], args: argparse.Namespace) -> dict[str, float]:
    """Multiply-adds of a step, by plan."""
    found = {}
    for plan in dict.fromkeys(VARIANTS[name].plan for name in args.variants):
        with running(subject.model, plan):
            found[plan] = step_flops(lambda: subject.step(batch))
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
