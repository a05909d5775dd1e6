"""Train, resume or evaluate a detector.

    sqr train quick/sqr_deformable_detr_shapes train.output_dir=output/sqr
    sqr train quick/sqr_deformable_detr_shapes train.output_dir=output/sqr --resume
    sqr eval --run output/sqr
    train_net.py --config-file NAME [--resume | --eval-only] [key=value ...]

A config is a file or a name that ``sqr configs ls`` lists. ``key=value`` overrides a key of it, ``+key=value`` adds
one; a misspelt key is an error. Options and overrides may stand in any order.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..config import add_trust_option, load_run_config
from ..engine import evaluate, run_eval_only, setup_run, train
from ..errors import UsageError, report_error
from ..runs import run_files
from .launching import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_intermixed_args(argv)
    try:
        _settle(args)
    except ValueError as error:
        return report_error(error)
    return run_command(run, args)


def run(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; returns the last evaluation's results."""
    cfg = load_run_config(args.config_file, args.opts, training=not args.eval_only)
    setup_run(cfg, args)
    return run_eval_only(cfg, evaluate) if args.eval_only else train(cfg, args, evaluate)


def _settle(args: argparse.Namespace) -> None:
    """Sort the words into config and overrides."""
    args.opts = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word]
    if args.run:
        if not args.eval_only or args.config_file or names:
            raise UsageError("--run DIR evaluates a run: leave out the config, and use sqr eval or --eval-only")
        args.config_file, weights = run_files(args.run, args.weights)
        args.opts = [f"train.init_checkpoint={weights}", f"train.output_dir={args.run}", *args.opts]
    elif args.weights:
        args.opts = [f"train.init_checkpoint={args.weights}", *args.opts]
    if names and not args.config_file:
        args.config_file = names.pop(0)
    if names:
        raise UsageError(f"override {names[0]!r}: write key=value, as in train.max_iter=1000")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Often wanted: data.root=FOLDER, train.output_dir=DIR, train.max_iter=N, model.decoder.plan=selective, "
        "optimizer.lr=X, train.device=cpu, train.init_checkpoint=FILE. docs/configs.md describes the keys.",
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="the config, and overrides of its keys")
    parser.add_argument("--config-file", default="", metavar="CONFIG", help="the config, as an option")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint of train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train")
    parser.add_argument("--run", metavar="DIR", help="with --eval-only: output folder of the training to evaluate")
    parser.add_argument("--weights", help="weights to start from or to evaluate; with --run a file in its folder")
    add_trust_option(parser)
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs on this machine; on a CPU the processes")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    port = 2**15 + 2**14 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet")
    return parser
