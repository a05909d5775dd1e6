#!/usr/bin/env python
"""Train a quick model, evaluate it, analyse its stages and write a report: what ``make demo`` runs.

    run_demo.py --output output/demo [--config-file quick/sqr_deformable_detr_shapes] [key=value ...]

Called again it goes on with an unfinished training, and skips a finished one.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from sqr import engine
from sqr.data import resolve_num_classes
from sqr.evaluation import evaluate_and_report

TRAIN_NET = Path(__file__).resolve().parents[1] / "train_net.py"


def train(config_file: str, output: Path, overrides: list[str]) -> None:
    """Run ``train_net.py`` in a process of its own, so that what a user would type is what the demo does."""
    command = [
        *(sys.executable, str(TRAIN_NET), "--config-file", config_file, "--resume"),
        *(f"train.output_dir={output}", *overrides),
    ]
    print("+", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def analyse(config_file: str, output: Path, overrides: list[str]) -> Path:
    """Evaluate every stage of the trained model; return the report's path."""
    cfg = engine.load_config(config_file, [f"train.output_dir={output}", *overrides])
    resolve_num_classes(cfg)
    model = engine.build_model(cfg)
    engine.load_model_weights(model, str(output / "model_final.pth"), complete=True)
    _, report = evaluate_and_report(cfg, model, output / "stages", name=Path(config_file).stem)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="quick/sqr_deformable_detr_shapes")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("overrides", nargs="*", help="key=value, as for train_net.py")
    args = parser.parse_args()
    try:
        train(args.config_file, args.output, args.overrides)
    except subprocess.CalledProcessError as error:
        return error.returncode
    report = analyse(args.config_file, args.output, args.overrides)
    print(
        f"\nTraining log, checkpoints and metrics: {args.output}\n"
        f"Stage analysis (JSON, CSV, figures):    {args.output / 'stages'}\n"
        f"Report, open it in a browser:           {report}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
