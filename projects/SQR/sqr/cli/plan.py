"""Print and draw recollection plans: which query groups every decoder stage trains on.

sqr plan selective
sqr plan sequential selective dense --output plans.svg
sqr plan '{name: selective, start: 3}' '[[0], [0, 1], [1, 2]]' --stages 6
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..evaluation.plan_figure import describe, write_plan_figure
from ..recollection import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", metavar="PLAN", help="as in model.decoder.plan=PLAN")
    parser.add_argument("--stages", type=int, default=6, help="decoder stages; default 6")
    parser.add_argument("--output", type=Path, help="picture to write (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    try:
        plans = {text: Plan.from_spec(yaml.safe_load(text.replace(":", ": ")), args.stages) for text in args.plans}
    except (ValueError, TypeError, yaml.YAMLError) as error:
        parser.error(" ".join(str(error).split()))
    for title, plan in plans.items():
        print(f"{title}\n{describe(plan)}\n")
    if args.output:
        print(f"drawn in {write_plan_figure(plans, args.output)}")
    return 0
