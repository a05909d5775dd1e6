"""Studies: measure what is missing, and write tables and figures from what is measured.

    sqr study list
    sqr study run NAME [--workers N] [--arms ARM ...] [--datasets NAME ...] [--seeds SEED ...] [--limit N] [--data DIR]
    sqr study report NAME

``run`` can be stopped and repeated at any point; results are files, one per cell. ``report`` writes the tables into
the pages that the study names, ``results/NAME/report.json`` and figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, report_error
from ..studies import build_report, find_studies, load_results, load_study, run_study, update_pages
from ..studies.definition import RESULTS, STUDIES
from ..studies.figures import write_figures
from ..studies.report import study_table, write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for errors that the user can fix, 130 for an interruption)."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (UserError, ValueError, OSError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("stopped; the same command resumes")
        return 130


def list_studies(args: argparse.Namespace) -> int:
    """Print every study and how much of it is measured."""
    for study in find_studies(args.studies):
        done, planned = len(load_results(study, args.results)), sum(1 for _ in study.cells())
        print(f"{study.name}: {study.title} ({done} of {planned} cells)")
    return 0


def run(args: argparse.Namespace) -> int:
    """Measure what is missing."""
    study = load_study(args.name, args.studies)
    left = run_study(
        study, work=args.work, data=args.data, results=args.results, workers=args.workers, arms=args.arms,
        datasets=args.datasets, seeds=args.seeds, limit=args.limit, with_changes=args.with_changes,
        say=lambda text: print(text, flush=True),
    )  # fmt: skip
    print(f"{left} cells left" if left else "complete")
    return 0


def report(args: argparse.Namespace) -> int:
    """Print the tables and write pages, report and figures."""
    study = load_study(args.name, args.studies)
    results = load_results(study, args.results)
    print(study_table(study, results))
    written = update_pages(study, results)
    if results:
        written.append(write_report(build_report(study, results), args.results / study.name / "report.json"))
        written += write_figures(study, results, args.figures)
    print("\nwritten:", ", ".join(map(str, written)) or "nothing, all is up to date")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, default=STUDIES, help="folder of the study files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("list", help="studies and their state").set_defaults(run=list_studies)
    one = commands.add_parser("run", help="measure what is missing")
    one.set_defaults(run=run)
    one.add_argument("name", help="of a study, or a .yaml file")
    one.add_argument("--workers", type=int, default=1, help="processes at once, of one thread each")
    one.add_argument("--arms", nargs="+", default=(), help="only these")
    one.add_argument("--datasets", nargs="+", default=(), help="only these")
    one.add_argument("--seeds", nargs="+", type=int, default=(), help="only these")
    one.add_argument("--limit", type=int, help="measure at most so many cells")
    one.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the datasets")
    one.add_argument("--work", type=Path, default=Path("output/studies"), help="folder of trainings and caches")
    one.add_argument("--with-changes", action="store_true", help="measure although there are uncommitted changes")
    two = commands.add_parser("report", help="write tables, report and figures")
    two.set_defaults(run=report)
    two.add_argument("name", help="of a study, or a .yaml file")
    two.add_argument("--figures", type=Path, default=Path("docs/images"), help="folder of the figures")
    return parser
