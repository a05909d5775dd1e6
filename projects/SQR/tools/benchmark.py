#!/usr/bin/env python
"""Benchmarks, on a CPU or a GPU; docs/benchmarks.md says what each one tells.

    benchmark.py ops
    benchmark.py loss
    benchmark.py train --config-file deformable_detr/deformable_detr_r50_50ep
    benchmark.py infer --config-file deformable_detr/deformable_detr_r50_50ep
    benchmark.py memory --config-file deformable_detr/sqr_deformable_detr_r50_50ep --num-gpus 8 --budget 24GB
    benchmark.py data --config-file quick/sqr_deformable_detr_shapes

Each stores what it found with ``--json FILE``.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from sqr.errors import UserError, report_error

# name: the module of sqr.benchmarks, and what it says of itself
BENCHMARKS = {
    "ops": "the operators against their references and the machine's limits",
    "loss": "matching and set loss against the textbook's, a set at a time",
    "train": "a training step by plan, and SQR against other ways of running it",
    "memory": "will it fit? predicted peak memory by plan, and a recommendation",
    "infer": "inference against Hugging Face transformers with the same weights",
    "data": "the training loader against the training step",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    modules = {}
    for name, text in BENCHMARKS.items():
        modules[name] = importlib.import_module(f"sqr.benchmarks.{name}")
        command = commands.add_parser(name, help=text, description=modules[name].__doc__)
        command.add_argument("--json", type=Path, help="store the results here")
        modules[name].add_arguments(command)
    args = parser.parse_args()
    try:
        report = modules[args.benchmark].run(args)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + "\n")
            print(f"stored in {args.json}")
    except UserError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
