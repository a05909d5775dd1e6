"""Which model a tool uses: the same options for each."""

from __future__ import annotations

import argparse

from ..config import add_trust_option
from ..errors import UsageError
from ..runs import run_files

DEFAULT_CONFIG = "quick/sqr_deformable_detr_shapes"
"""Whose trained weights come with the package."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--config-file``, ``--run``, ``--weights`` and ``--opts``."""
    parser.add_argument(
        "--config-file", help=f"a config file or a name of the model zoo; {DEFAULT_CONFIG} where no model is named"
    )
    parser.add_argument("--run", metavar="DIR", help="output folder of a training, in the place of a config")
    parser.add_argument(
        "--weights",
        help="checkpoint: a path, a URL, zoo://NAME, or zoo for the config's own, which is the default; with --run the "
        "name of a file in it, its last checkpoint by default",
    )
    add_trust_option(parser)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="key=value", help="overrides of the config; given last"
    )


def chosen_model(args: argparse.Namespace) -> tuple[str, str]:
    """The config and the checkpoint that the options name.

    Raises:
        UsageError: ``--run`` beside ``--config-file``.
        UserError: a run's files are missing.
    """
    if not args.run:
        return args.config_file or DEFAULT_CONFIG, args.weights or "zoo"
    if args.config_file:
        raise UsageError("give --run or --config-file, not both")
    return run_files(args.run, args.weights)
