"""Names and files of the model zoo: shipped configs and trained checkpoints.

A name is a path below ``configs/``, with or without ``.py``.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path

_NOT_MODELS = ("common", "models")  # parts that configs import
_ZOO = Path(__file__).parent / "model_zoo"

SCHEME = "zoo://"
"""``zoo://NAME`` is the address of a config's trained checkpoint, wherever a path of weights is taken."""


def _measured() -> list[dict]:
    return json.loads((_ZOO / "zoo.json").read_text())["measured"]


def _listed_checkpoints() -> dict[str, str]:
    """Config name to URL, or path below the model zoo's folder, of its trained weights, from ``zoo.json``."""
    return {row["config"]: row["checkpoint"] for row in _measured() if "checkpoint" in row}


CHECKPOINTS = _listed_checkpoints()


def get_config_file(name: str) -> str:
    """The path of a shipped config, e.g. of ``quick/sqr_deformable_detr_shapes``.

    Raises:
        ValueError: there is no such config; the nearest names are given.
    """
    name = _bare(name)
    path = configs_folder() / f"{name}.py"
    if not path.is_file():
        names = config_names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
        raise ValueError(f"the model zoo has no config {name!r}; the nearest are {', '.join(near) or '(none)'}")
    return str(path)


def get_checkpoint_url(name: str) -> str:
    """URL or path of a config's trained checkpoint.

    Raises:
        ValueError: no such config, or the model zoo has no checkpoint of it.
    """
    get_config_file(name)
    name = _bare(name)
    if name not in CHECKPOINTS:
        known = ", ".join(checkpoint_names()) or "none yet"
        raise ValueError(f"the model zoo has no trained checkpoint of {name!r}; there are: {known}")
    place = CHECKPOINTS[name]
    return place if "://" in place else str(_ZOO / place)


def get_checkpoint_classes(path: str) -> tuple[str, ...] | None:
    """The names of the classes of a shipped checkpoint; None of any other file."""
    for row in _measured():
        if "checkpoint" in row and Path(path) == _ZOO / row["checkpoint"]:
            return tuple(row["classes"])
    return None


def configs_folder() -> Path:
    """``configs/`` inside the installed package, or at the root of a source checkout."""
    shipped = _ZOO / "configs"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[3] / "configs"


def config_names() -> list[str]:
    """Names of all shipped training configs, sorted."""
    root = configs_folder()
    names = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(n.as_posix() for n in names if n.parts[0] not in _NOT_MODELS)


def checkpoint_names() -> list[str]:
    """Names of the configs that have a trained checkpoint, sorted."""
    return sorted(CHECKPOINTS)


def config_name(config: str) -> str:
    """The model-zoo name of a config that is given by name or by the path of its file.

    Raises:
        ValueError: it is not a config of the zoo.
    """
    path, root = Path(config).resolve(), configs_folder().resolve()
    if path.is_file() and path.is_relative_to(root):
        return path.relative_to(root).with_suffix("").as_posix()
    get_config_file(config)
    return _bare(config)


def _bare(name: str) -> str:
    return name.removesuffix(".py")
