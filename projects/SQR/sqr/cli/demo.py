"""Train a quick model, evaluate it, analyze its stages and write a report: what ``make demo`` runs.

    sqr demo --output output/demo [--config-file quick/sqr_deformable_detr_shapes] [key=value ...]

A repeated call resumes an unfinished training and skips a finished one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import load_run_config
from ..engine import load_model
from . import train
from .analyze import analyze_and_publish


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="quick/sqr_deformable_detr_shapes")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_args(argv)
    overrides = [f"train.output_dir={args.output}", *args.overrides]
    command = ["--config-file", args.config_file, "--resume", *overrides]
    print("+ train_net.py", " ".join(command), flush=True)
    code = train.main(command)
    if code:
        return code
    cfg = load_run_config(args.config_file, overrides, init_checkpoint=str(args.output / "model_final.pth"))
    report = analyze_and_publish(cfg, load_model(cfg), args.output / "stages", name=Path(args.config_file).stem)
    print(
        f"\nTraining log, checkpoints and metrics: {args.output}\n"
        f"Stage analysis (JSON, CSV, figures):    {args.output / 'stages'}\n"
        f"Report, open it in a browser:           {report}"
    )
    return 0
