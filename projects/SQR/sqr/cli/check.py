"""``sqr check`` and ``tools/check_dataset.py``: what is in a dataset and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..data.check.cleaned_copy import write_cleaned_copy
from ..data.check.contact_sheet import write_contact_sheet
from ..data.check.inspection import Inspection, inspect_dataset
from ..data.check.report import report_dict, report_text
from ..data.check.splitting import split_inspection
from ..data.layouts import DatasetFolder, UnknownLayoutError, find_dataset, single_file
from ..errors import UsageError, as_user_error, report_error
from ..files import write_json

_SHOWN_CHANGES = 20  # changes of --fix to print; all are in fix.json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if the dataset can be trained on, 1 if training or evaluation would fail, 2 for an invalid
        command. With ``--fix`` this refers to the copy.
    """
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except (ValueError, OSError) as error:
        return report_error(error)


def _run(args: argparse.Namespace) -> int:
    dataset = _dataset(args.path, args.images)
    if args.fix and os.path.exists(args.fix) and (not os.path.isdir(args.fix) or os.listdir(args.fix)):
        raise UsageError(f"--fix {args.fix}: exists and is not an empty folder")
    if args.split is not None and not args.fix:
        raise UsageError("--split needs --fix FOLDER, where the two splits are written")
    if args.split is not None and {"train", "val"} <= dataset.splits.keys():
        raise UsageError("--split makes a validation split, but there is one")
    if args.split is not None and args.no_decode:
        raise UsageError("--split looks at the images to keep those that are alike together: leave out --no-decode")
    inspection = inspect_dataset(dataset, queries=args.queries, decode=not args.no_decode, workers=args.workers)
    with as_user_error(OSError, prefix="cannot write the report: "):
        folder = Path(args.output or Path("output") / f"check_{Path(os.path.abspath(args.path)).stem}")
        written = _write_files(inspection, folder, sheet=args.sheet)
    if args.json:
        print(json.dumps(report_dict(inspection), indent=1))
    else:
        print(report_text(inspection, examples=args.examples))
        print(f"Written: {', '.join(map(str, written))}")
    failing = inspection.failing
    if args.fix:
        if args.split is not None:
            with as_user_error(ValueError):
                inspection = split_inspection(inspection, args.split, seed=args.seed)
        with as_user_error(OSError, prefix=f"--fix {args.fix}: "):
            summary = write_cleaned_copy(inspection, args.fix)
        found = replace(find_dataset(args.fix), partial=dataset.partial)
        copy = inspect_dataset(found, queries=args.queries, workers=args.workers)
        failing = copy.failing
        print(f"{args.fix}: {summary}", file=sys.stderr)
        for line in summary.changes[:_SHOWN_CHANGES]:
            print(f"    {line}", file=sys.stderr)
        if len(summary.changes) > _SHOWN_CHANGES:
            print(f"    and {len(summary.changes) - _SHOWN_CHANGES} more, in {folder / 'fix.json'}", file=sys.stderr)
        write_json(folder / "fix.json", asdict(summary))
        if failing:
            print(report_text(copy, examples=args.examples), file=sys.stderr)
    root = args.fix or args.path
    if not failing and not args.json and os.path.isdir(root):
        config = "quick/finetune_sqr_deformable_detr"
        print(f"Next:\n  sqr train {config} data.root={shlex.quote(root)} train.output_dir=output/mine")
    return int(failing)


def _dataset(path: str, images: str | None) -> DatasetFolder:
    if not os.path.exists(path):
        raise UsageError(f"{path} does not exist")
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"--images {images}: no such folder")
    if os.path.isfile(path) and path.lower().endswith(".json"):
        return single_file(path, images)
    if images is not None:
        raise UsageError("--images goes with a single annotation file (.json)")
    try:
        return find_dataset(path)
    except UnknownLayoutError as error:
        raise UsageError(str(error)) from None


def _write_files(inspection: Inspection, folder: Path, *, sheet: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.json"
    write_json(report, report_dict(inspection))
    if sheet > 0:
        picture = folder / "contact_sheet.png"
        if write_contact_sheet(inspection, picture, count=sheet):
            return [report, picture]
    return [report]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Say what a detection dataset holds and everything that is wrong with it. Exit code 0: it can be "
        "trained on; 1: training would fail; 2: the command makes no sense. docs/custom_data.md says more.",
    )
    parser.add_argument(
        "path", help="folder of a dataset (docs/custom_data.md lists the formats), a COCO .json, or a data.yaml"
    )
    parser.add_argument("--images", metavar="FOLDER", help="images of a single .json; looked for beside it by default")
    help_queries = "queries of the detector: a training image with more objects is an error (default 300)"
    parser.add_argument("--queries", type=_positive, default=300, metavar="N", help=help_queries)
    parser.add_argument("--no-decode", action="store_true", help="read image headers only; misses truncated files")
    parser.add_argument("--workers", type=_positive, metavar="N", help="threads (default: cores, at most 16)")
    parser.add_argument("--output", metavar="FOLDER", help="of report.json and contact_sheet.png (output/check_NAME)")
    parser.add_argument("--sheet", type=int, default=16, metavar="N", help="images on the contact sheet; 0 for none")
    parser.add_argument("--examples", type=_positive, default=3, metavar="N", help="places shown of each defect")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--fix", metavar="FOLDER", help="write a cleaned copy in COCO's layout there")
    help_split = "with --fix: the only split becomes train and val, with this share of the images in val"
    parser.add_argument("--split", type=_share, metavar="SHARE", help=help_split)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --split (default 0)")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
