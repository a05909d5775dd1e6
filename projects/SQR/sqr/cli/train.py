"""Train, resume or evaluate a model from a config file, with Detectron2's command line.

    train_net.py --config-file quick/sqr_deformable_detr_shapes train.output_dir=output/sqr
    train_net.py --config-file ... --resume
    train_net.py --config-file ... --eval-only train.init_checkpoint=output/sqr/model_final.pth

A config is a file or a name of the model zoo. ``key=value`` overrides a key of it, ``+key=value`` adds one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detectron2.engine import default_argument_parser

from ..config import load_run_config
from ..engine import evaluate, run_eval_only, setup_run, train
from .launching import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(run, default_argument_parser(epilog=__doc__).parse_args(argv))


def run(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; returns the last evaluation's results."""
    cfg = load_run_config(args.config_file, args.opts, training=not args.eval_only)
    setup_run(cfg, args)
    return run_eval_only(cfg, evaluate) if args.eval_only else train(cfg, args, evaluate)
