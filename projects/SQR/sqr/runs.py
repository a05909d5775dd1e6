"""The files of a run's output folder."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from .errors import UserError

EMA = "@ema"
"""Suffix of a checkpoint's path that selects its averaged weights."""


def command_line() -> str:
    """The command of this process, as one would type it."""
    program, *arguments = sys.argv
    return " ".join([program if program.startswith("sqr ") else shlex.quote(program), *map(shlex.quote, arguments)])


def run_files(output_dir: str | os.PathLike, checkpoint: str | None = None) -> tuple[str, str]:
    """Return the config and the checkpoint of a run.

    Args:
        output_dir: ``train.output_dir`` of the run.
        checkpoint: name of a file in it, possibly followed by ``@ema``; the last checkpoint when None.

    Raises:
        UserError: one of them is missing.
    """
    folder = Path(output_dir)
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(f"{folder} is not the output folder of a training: it holds no config.yaml")
    if checkpoint is None:
        last = folder / "last_checkpoint"
        if not last.is_file():
            raise UserError(f"{folder} holds no last_checkpoint: nothing was saved yet, or name a checkpoint")
        checkpoint = last.read_bytes()[:300].decode(errors="replace").strip()
        if Path(checkpoint).name != checkpoint or not checkpoint.isprintable():
            raise UserError(f"{last} does not name a file of {folder}; name a checkpoint")
    path = folder / checkpoint
    if not Path(str(path).removesuffix(EMA)).is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*.pth"))) or "none"
        raise UserError(f"{path}: no such checkpoint; there are: {found}")
    return str(config), str(path)
