"""Benchmarks. ``benchmark.py ops`` times the operators; see each one's ``--help``.

python projects/SQR/tools/benchmark.py ops --json output/bench_ops.json
"""

import argparse
import importlib
import json
from pathlib import Path

# name: the module of sqr.engine.benchmarks, and what it says of itself
BENCHMARKS = {
    "ops": "the operators against their references and the machine's limits",
    "loss": "matching and set loss against the textbook's, a set at a time",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    modules = {}
    for name, text in BENCHMARKS.items():
        modules[name] = importlib.import_module(f"sqr.engine.benchmarks.{name}")
        command = commands.add_parser(name, help=text, description=modules[name].__doc__)
        command.add_argument("--json", type=Path, help="store the results here")
        modules[name].add_arguments(command)
    args = parser.parse_args()
    report = modules[args.benchmark].run(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"stored in {args.json}")


if __name__ == "__main__":
    main()
