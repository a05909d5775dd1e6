#!/usr/bin/env python
"""Train, resume or evaluate a model from a config file, with Detectron2's command line.

    train_net.py --config-file quick/sqr_deformable_detr_shapes train.output_dir=output/sqr
    train_net.py --config-file ... --resume
    train_net.py --config-file ... --eval-only train.init_checkpoint=output/sqr/model_final.pth

A config is a file or a name of the model zoo. ``key=value`` overrides a key of it, ``+key=value`` adds one.
"""

import argparse
import sys

from detectron2.engine import default_argument_parser
from omegaconf import DictConfig
from torch import nn

from sqr import engine


def do_test(cfg: DictConfig, model: nn.Module) -> dict:
    """Evaluate a model as ``cfg.dataloader`` says; return task to metric to value."""
    return engine.evaluate(cfg, model)


def do_train(args: argparse.Namespace, cfg: DictConfig) -> dict:
    """Train, or go on with the last checkpoint; return the last evaluation's results."""
    return engine.train(cfg, args, do_test)


def main(args: argparse.Namespace) -> dict:
    """What each process does."""
    cfg = engine.load_config(args.config_file, args.opts)
    engine.resolve_device(cfg.train.device)
    if "data" in cfg:
        from sqr.data import check_queries, resolve_num_classes

        with engine.as_user_error(ValueError, OSError):
            resolve_num_classes(cfg)
            if not args.eval_only:
                check_queries(cfg)
    engine.setup_run(cfg, args)
    if args.eval_only:
        return engine.run_eval_only(cfg, do_test)
    return do_train(args, cfg)


def invoke_main() -> None:
    sys.exit(engine.run_command(main, default_argument_parser(epilog=__doc__).parse_args()))


if __name__ == "__main__":
    invoke_main()
