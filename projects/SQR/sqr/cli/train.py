"""``sqr train``, ``sqr eval`` and ``train_net.py``: train, resume or evaluate a detector."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm

from ..checkpoint.files import stored_config
from ..config import load_run_config
from ..engine import evaluate, run_eval_only, setup_run, train
from ..errors import UsageError, report_error
from ..runs import run_files
from .launching import run_command
from .options import train_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = train_parser().parse_intermixed_args(argv)
    try:
        _settle(args)
    except ValueError as error:
        return report_error(error)
    return run_command(run, args)


def run(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; returns the last evaluation's results."""
    config = args.config_file
    if args.eval_only and args.weights and not config:
        config = stored_config(args.weights)
    cfg = load_run_config(config, args.opts, training=not args.eval_only)
    setup_run(cfg, args)
    if args.eval_only:
        return run_eval_only(cfg, evaluate)
    results = train(cfg, args, evaluate)
    if comm.is_main_process():
        print(next_commands(Path(cfg.train.output_dir), evaluated=bool(results)), flush=True)
    return results


def next_commands(folder: Path, *, evaluated: bool) -> str:
    """Commands to run next with a finished run."""
    best = " --weights model_best.pth" if (folder / "model_best.pth").is_file() else ""
    run = f"--run {shlex.quote(str(folder))}{best}"
    analysis, model = (shlex.quote(str(folder / name)) for name in ("analysis", "model.onnx"))
    analyze = [f"sqr analyze {run} --output {analysis}"] if evaluated else []
    commands = [f"sqr predict PHOTO.jpg {run}", *analyze, f"sqr export {run} --output {model}"]
    return "\n".join(["Next:", *(f"  {command}" for command in commands)])


def _settle(args: argparse.Namespace) -> None:
    """Split the words into config and overrides."""
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
