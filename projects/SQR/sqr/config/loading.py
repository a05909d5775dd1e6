"""Configs: found by name, checked against the signatures they call, saved so that they load again."""

from __future__ import annotations

import builtins
import copy
import difflib
import inspect
import tempfile
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from .. import catalog
from ..errors import UsageError, one_line
from ..files import write_text
from .overrides import apply_overrides
from .train_section import check_train_section, prefer_overridden_length
from .yaml_files import parse_yaml_config, read_yaml_config

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

# Filled in by the trainer, not by a config.
_GIVEN_LATER = {("optimizer.params", "model")}


def load_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config file, apply overrides strictly and check every call in it.

    Args:
        name: path of a ``.py`` or ``.yaml`` file, or a model-zoo name (``quick/sqr_deformable_detr_shapes``).
        overrides: see :func:`sqr.config.apply_overrides`.

    Raises:
        UsageError: no such config, one that cannot be loaded, a bad override, or a call with wrong arguments.
    """
    path = find_config(name)
    cfg = read_config(path)
    missing = [section for section in SECTIONS if section not in cfg]
    if missing:
        raise UsageError(f"config {path} defines no {', '.join(missing)}; a training config has {', '.join(SECTIONS)}")
    cfg = apply_overrides(cfg, overrides)
    prefer_overridden_length(cfg, overrides)
    check_train_section(cfg)
    check_calls(cfg)
    name_zoo_checkpoint(cfg, name)
    return cfg


def read_config(path: str) -> DictConfig:
    """The content of a config file, unchecked: a ``.py`` file is code and is run, a YAML file is data.

    Raises:
        UsageError: it cannot be loaded, or a YAML file names something that it is not allowed to call
            (:mod:`sqr.config.trust`).
    """
    if not path.endswith(".py"):
        return read_yaml_config(path)
    try:
        cfg = LazyConfig.load(path)
    except (SyntaxError, ImportError, OSError) as error:
        raise UsageError(f"config {path} cannot be loaded: {one_line(error)}") from error
    if set(cfg) == {"cfg"}:  # a file that changes a shipped config: cfg = model_zoo.get_config(...)
        cfg = cfg.cfg
        cfg._set_parent(None)  # interpolations count from here
    return cfg


def editable(cfg: DictConfig) -> DictConfig:
    """A deep copy of a config that may be changed; a settled config is read-only."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_readonly(cfg, False)
    return cfg


def find_config(name: str) -> str:
    """The path of a config file, given as a path or as a model-zoo name.

    Raises:
        UsageError: neither exists; the nearest names are suggested.
    """
    if not name:
        raise UsageError("give a config with --config-file: a path, or a name of the model zoo")
    if Path(name).is_file():
        if Path(name).suffix not in (".py", ".yaml", ".yml"):
            raise UsageError(f"--config-file {name}: a config is a .py or .yaml file")
        return name
    try:
        return catalog.get_config_file(name)
    except ValueError as error:
        raise UsageError(f"--config-file {name}: no such file, and {one_line(error)}") from None


def name_zoo_checkpoint(cfg: DictConfig, config: str) -> None:
    """Replace ``train.init_checkpoint=zoo`` by the address ``zoo://NAME`` of the config's own checkpoint.

    Args:
        cfg: changed in place.
        config: the name or path that ``cfg`` was loaded from.

    Raises:
        UsageError: the model zoo has no checkpoint of this config; the available ones are listed.
    """
    if cfg.train.get("init_checkpoint") != "zoo":
        return
    try:
        name = catalog.config_name(config)
        catalog.get_checkpoint_url(name)
    except ValueError as error:
        known = ", ".join(catalog.SCHEME + n for n in catalog.checkpoint_names()) or "none yet"
        raise UsageError(
            f"train.init_checkpoint=zoo: {config} has no trained checkpoint in the model zoo; there are: {known}"
        ) from error
    cfg.train.init_checkpoint = f"{catalog.SCHEME}{name}"


def check_calls(cfg: DictConfig) -> None:
    """Check argument names, and plain values' types, of every call in a config against its target.

    Raises:
        UsageError: a target that does not exist, an argument it does not take or needs and does not get,
            or a value that is not of the annotated type.
    """
    for path, node in calls(cfg, ""):
        target = node.get("_target_")
        function = _located(target, path)
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # built-ins without a signature
            continue
        _check_names(path, node, function, parameters)
        _check_values(path, node, function)


def calls(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node with a ``_target_``, and its dotted key."""
    if isinstance(node, (DictConfig, ListConfig)):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return
        if isinstance(node, DictConfig) and "_target_" in node:
            yield path, node
        keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            yield from calls(node._get_node(key), f"{path}.{key}" if path else str(key))


def _located(target: Any, path: str) -> Any:
    if not isinstance(target, str):
        name = getattr(target, "__qualname__", "")
        if getattr(target, "__module__", None) == "builtins" and not hasattr(builtins, name.partition(".")[0]):
            raise UsageError(
                f"{path}: {name} is defined in the config file, so the saved config could not name it; put it into a "
                "module beside the config, on PYTHONPATH, and import it from there"
            )
        return target
    try:
        return locate(target)
    except ImportError as error:
        raise UsageError(f"{path}: its target {target} cannot be imported ({one_line(error)})") from error


def _check_names(path: str, node: DictConfig, function: Any, parameters: typing.Mapping) -> None:
    kinds = [p.kind for p in parameters.values()]
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    given = [k for k in node.keys() if k != "_target_"]  # noqa: SIM118
    label = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
    for key in given:
        if key not in named and not takes_any:
            close = difflib.get_close_matches(key, named, n=1)
            hint = f"did you mean {path}.{close[0]}?" if close else f"it takes {', '.join(named) or 'none'}"
            raise UsageError(f"{path}.{key}: {label} has no argument {key}; {hint}")
    # @configurable and the like accept a whole config in place of their arguments; they take anything by
    # name.
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return
    for name in named:
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and name not in given and (path, name) not in _GIVEN_LATER:
            raise UsageError(f"{path}: {label} needs the argument {name}; set {path}.{name}")


def _check_values(path: str, node: DictConfig, function: Any) -> None:
    """Check for text where a number is annotated, and the reverse: typical command-line mistakes."""
    try:
        owner = function.__init__ if inspect.isclass(function) else function
        hints = typing.get_type_hints(owner)
    except Exception:  # annotations that only exist for a type checker
        return
    for key, hint in hints.items():
        if key not in node.keys() or node._get_node(key)._is_interpolation():  # noqa: SIM118
            continue
        value = node.get(key)
        accepted = set(typing.get_args(hint)) if _is_union(hint) else {hint}
        if not accepted <= {bool, int, float, str, type(None)} or isinstance(value, (DictConfig, ListConfig)):
            continue
        if float in accepted:
            accepted.add(int)
        if type(value) in (bool, int, float, str, type(None)) and type(value) not in accepted:
            names = " or ".join(sorted("null" if t is type(None) else t.__name__ for t in accepted))
            raise UsageError(f"{path}.{key}={value!r}: must be of type {names}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def save_config(cfg: DictConfig, path: str, *, header: str = "") -> None:
    """Save a config as YAML.

    Args:
        cfg: the config.
        path: of the file.
        header: lines to put above it as comments.

    Raises:
        UsageError: it contains something YAML cannot represent, such as a lambda, and would not load again.
    """
    cfg = editable(cfg)  # saving replaces functions by their names
    with tempfile.TemporaryDirectory() as folder:
        LazyConfig.save(cfg, f"{folder}/config.yaml")
        text = Path(folder, "config.yaml").read_text()
    try:
        # The config's own targets are trusted here; a reader has to allow unknown ones when loading it.
        parse_yaml_config(text, path, target=_located)
    except UsageError as error:
        raise UsageError(
            f"the config, saved as {path}, does not load back ({one_line(error)}); use named functions and "
            "plain values in configs"
        ) from error
    write_text(path, "".join(f"# {line}\n" for line in header.splitlines()) + text)
