"""Selects the model of a command by its options."""

from __future__ import annotations

import argparse

from omegaconf import DictConfig

from ..catalog import SCHEME
from ..checkpoint.files import stored_config
from ..errors import UsageError
from ..runs import run_files
from .options import DEFAULT_CONFIG


def chosen_model(args: argparse.Namespace) -> tuple[str | DictConfig, str]:
    """The config and the checkpoint that the options name; a checkpoint of a training contains its config.

    Raises:
        UsageError: ``--run`` together with ``--config-file``.
        UserError: a run's files are missing, or a checkpoint does not say which model it is of.
    """
    if args.run and args.config_file:
        raise UsageError("give --run or --config-file, not both")
    if args.run:
        return run_files(args.run, args.weights)
    if args.config_file or args.weights in (None, "zoo"):
        return args.config_file or DEFAULT_CONFIG, args.weights or "zoo"
    if args.weights.startswith(SCHEME):
        return args.weights.removeprefix(SCHEME), args.weights
    return stored_config(args.weights), args.weights
