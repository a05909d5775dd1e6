"""Fuzz every kind of input and print a table: ``python -m fuzz --inputs 2000 --seed 0`` in ``tests/``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.kinds import KINDS

HANG_SECONDS = 120


def fuzz(name: str, count: int, number: int, folder: Path) -> tuple[Counter, list[str]]:
    """Feed ``count`` inputs to one kind; how many were refused and accepted, and the tracebacks of failures."""
    kind, outcomes, failures = KINDS[name](folder), Counter(), []

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        started = time.process_time()  # which a busy machine leaves alone
        try:
            outcomes[kind.attempt(data.draw)] += 1
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            outcomes["failed"] += 1
            failures.append("".join(traceback.format_exception(error)[-6:]))
        finally:
            faulthandler.cancel_dump_traceback_later()
        outcomes["slowest (ms)"] = max(outcomes["slowest (ms)"], round(1000 * (time.process_time() - started)))

    run()
    return outcomes, failures


def main() -> int:
    """Run the command; 1 where an input was not handled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), help="only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    names = [args.kind] if args.kind else list(KINDS)
    share, bad = -(-args.inputs // len(names)), 0
    columns = ("accepted", "refused", "failed", "slowest (ms)")
    print(f"| kind | inputs | {' | '.join(columns)} |\n|---|" + "---|" * (1 + len(columns)))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            outcomes, failures = fuzz(name, share, args.seed, Path(folder))
        total = sum(outcomes[c] for c in columns[:3])
        print(f"| {name} | {total} | {' | '.join(str(outcomes[c]) for c in columns)} |", flush=True)
        bad += outcomes["failed"]
        for text, count in Counter(failures).most_common(3):
            print(f"{count} x\n{text}", file=sys.stderr, flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
