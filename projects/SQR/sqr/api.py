"""Training from Python and notebooks: :func:`sqr.train` and :func:`sqr.list_configs`."""

from __future__ import annotations

import argparse
import fnmatch
import os
import re

from omegaconf import DictConfig

from . import engine
from .catalog import config_names
from .config import load_run_config


def list_configs(pattern: str = "*") -> list[str]:
    """Names of the shipped configs that match a pattern such as ``quick/*``, sorted."""
    return [name for name in config_names() if fnmatch.fnmatch(name, pattern)]


def train(
    config: str | os.PathLike | DictConfig,
    *,
    data: str | os.PathLike | None = None,
    output_dir: str | os.PathLike | None = None,
    resume: bool = False,
    **overrides: object,
) -> dict:
    """Train a detector in this process, as ``sqr train`` does.

    Args:
        config: a file, a name of the model zoo, or a loaded config.
        data: folder of a dataset, ``data.root``.
        output_dir: ``train.output_dir``; ``sqr.Predictor.from_run(output_dir)`` loads the result.
        resume: resume from the last checkpoint of ``output_dir``.
        **overrides: keys of the config with ``__`` for the dot: ``train__max_iter=200``,
            ``model__decoder__plan="selective"``.

    Returns:
        The last evaluation's results: task to metric to value.

    Raises:
        UserError: any error that ``sqr train`` reports in one line.
    """
    changes = [f"{key.replace('__', '.')}={_text(value)}" for key, value in overrides.items()]
    for key, value in (("data.root", data), ("train.output_dir", output_dir)):
        if value is not None:
            changes.append(f"{key}={_text(os.fspath(value))}")
    name = config if isinstance(config, DictConfig) else os.fspath(config)
    cfg = load_run_config(name, changes, training=True)
    args = argparse.Namespace(config_file="" if isinstance(name, DictConfig) else name, resume=resume, eval_only=False)
    engine.setup_run(cfg, args)
    return engine.train(cfg, args, engine.evaluate)


def _text(value: object) -> str:
    """Write a value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, str):
        # Hydra's grammar: a backslash counts as itself unless a quote or the end follows.
        return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), value) + "'"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(v)}" for key, v in value.items()) + "}"
    return str(value)
