"""Benchmarks, on a CPU or a GPU; described in docs/benchmarks.md.

    sqr bench ops
    sqr bench loss
    sqr bench train --config-file deformable_detr/deformable_detr_r50_50ep
    sqr bench infer --config-file deformable_detr/deformable_detr_r50_50ep
    sqr bench memory --config-file deformable_detr/sqr_deformable_detr_r50_50ep --num-gpus 8 --budget 24GB
    sqr bench evaluation

``--json FILE`` stores the results. ``--against COMMIT`` runs the benchmark in a checkout of that commit
and in this one in turn, and prints the ratios of old to new.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..benchmarks import against, evaluation, infer, loss, memory, ops, train
from ..errors import UserError, report_error
from ..files import write_json
from .options import add_trust_option

# name: its module, and a line for the list of commands
BENCHMARKS = {
    "ops": (ops, "the operators against their references and the machine's limits"),
    "loss": (loss, "matching and set loss against a textbook implementation, one set at a time"),
    "train": (train, "a training step by plan, and SQR against other ways of running it"),
    "memory": (memory, "predicted peak memory by plan, and what fits"),
    "infer": (infer, "inference against Hugging Face transformers with the same weights"),
    "evaluation": (evaluation, "box AP and AR against pycocotools"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, (module, text) in BENCHMARKS.items():
        command = commands.add_parser(name, help=text, description=module.__doc__)
        command.add_argument("--json", type=Path, help="store the results here")
        command.add_argument("--against", metavar="COMMIT", help="compare with this commit of the git checkout")
        command.add_argument("--rounds", type=int, default=3, help="runs of each checkout with --against")
        add_trust_option(command)
        module.add_arguments(command)
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    try:
        if args.against:
            report = against.compare(args.against, _without_comparison(argv), rounds=args.rounds)
        else:
            report = BENCHMARKS[args.benchmark][0].run(args)
        if args.json:
            write_json(args.json, report)
            print(f"stored in {args.json}")
    except UserError as error:
        return report_error(error)
    return 0


def _without_comparison(argv: Sequence[str]) -> list[str]:
    """The command line without ``--against``, ``--rounds`` and ``--json``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--against", "--rounds", "--json"):
        parser.add_argument(name)
    return parser.parse_known_args(argv)[1]
