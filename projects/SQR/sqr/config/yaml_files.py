"""YAML configs read as data: bounded in size, nothing executed, calls by :mod:`sqr.config.trust` only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UsageError, one_line
from .trust import trusted_target

MAX_BYTES = 2_000_000
MAX_DEPTH = 60
MAX_EXPANDED = 1_000_000
"""Values and characters of a config once aliases and interpolations are written out."""

_OUTPUT = "${train.output_dir}"
_NAME = "tag:yaml.org,2002:python/name:"
_REFERENCE = re.compile(r"\$\{(\.*[\w-]+(?:[.\[][\w-]+\]?)*)\}")


def read_yaml_config(path: str) -> DictConfig:
    """Read a config from a YAML file.

    Raises:
        UsageError: the file cannot be read, is not a config, is too large once expanded, or names something that
            a YAML config may not call.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise UsageError(f"config {path} has {size} bytes; a config has at most {MAX_BYTES}")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} cannot be read: {one_line(error)}") from error
    return parse_yaml_config(text, f"config {path}")


def parse_yaml_config(text: str, name: str, *, target: Callable[[Any, str], Any] = trusted_target) -> DictConfig:
    """The config in a YAML text; see :func:`read_yaml_config`.

    Args:
        text: the content of a file.
        name: what to call it in errors.
        target: finds a callable by its name, or raises UsageError.
    """
    try:
        content = _load(text, name, target)
        if not isinstance(content, dict):
            raise UsageError(f"{name} holds a {type(content).__name__}, not a config with sections")
        _Expansion(content, name).check()
        cfg = OmegaConf.create(content, flags={"allow_objects": True})
    except UsageError:
        raise
    # ValueError: dates and numbers that do not exist; RecursionError: nested or cyclic beyond measure.
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{name} cannot be loaded: {one_line(error)[:300]}") from error
    for key, value in _entries(content, ""):
        if key.rpartition(".")[2] == "_target_":
            target(value, f"{name}, {key}")
        if target is trusted_target:
            _refuse_side_doors(key, value, name)
    return cfg


def _refuse_side_doors(key: str, value: Any, name: str) -> None:
    """Refuse what makes a harmless call write elsewhere, or read files that are unpickled."""
    if key.rpartition(".")[2] == "output_dir" and key != "train.output_dir" and value not in (None, _OUTPUT):
        raise UsageError(f"{name}, {key}={str(value)[:100]}: a run writes to train.output_dir only; use {_OUTPUT}")
    if isinstance(value, dict) and {"_target_", "cfg"} <= value.keys():
        raise UsageError(f"{name}, {key}.cfg: a YAML config names arguments; it may not give a whole config instead")


def _load(text: str, name: str, target: Callable[[Any, str], Any]) -> Any:
    loader = yaml.SafeLoader(text)
    loader.yaml_multi_constructors = {
        **loader.yaml_multi_constructors,
        _NAME: lambda _, suffix, node: target(suffix or node.value, f"{name}, line {node.start_mark.line + 1}"),
    }
    loader.yaml_constructors = {
        **loader.yaml_constructors,
        "tag:yaml.org,2002:python/tuple": lambda own, node: own.construct_sequence(node, deep=True),
    }
    for tag in ("binary", "omap", "pairs", "set"):  # tuples, sets and bytes, of which a config has none
        del loader.yaml_constructors[f"tag:yaml.org,2002:{tag}"]
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, name)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node, name: str) -> None:
    """Bound the number of nodes of a document with its aliases expanded, and refuse duplicate keys."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise UsageError(f"{name}, line {node.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise UsageError(f"{name}, line {node.start_mark.line + 1}: a value contains itself")
            return sizes[id(node)]
        sizes[id(node)] = 0  # under way
        children = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
            _refuse_repeated_keys(node, name)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        total = 1 + sum(size(child, depth + 1) for child in children)
        if total > MAX_EXPANDED:
            raise UsageError(f"{name}: more than {MAX_EXPANDED} values with its aliases written out")
        sizes[id(node)] = total
        return total

    size(root, 0)


def _refuse_repeated_keys(node: yaml.MappingNode, name: str) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
            raise UsageError(f"{name}, line {key.start_mark.line + 1}: the key {key.value} stands twice")
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))


def _entries(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key and value, including nested ones."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        place = f"{path}.{key}" if path else str(key)
        yield place, value
        yield from _entries(value, place)


class _Expansion:
    """The size of a config with ``${a.b}`` expanded, computed without expanding it."""

    def __init__(self, root: dict, name: str):
        self._root, self._name = root, name
        self._sizes: dict[tuple, int | None] = {}

    def check(self) -> None:
        """Raise UsageError for cycles, for too many values, and for resolvers such as ``${oc.create:...}``."""
        self._size(())

    def _size(self, path: tuple) -> int:
        if path in self._sizes:
            if self._sizes[path] is None:
                raise UsageError(f"{self._name}, {_dotted(path)}: a value refers to itself")
            return self._sizes[path]
        self._sizes[path] = None  # under way
        node = self._at(path)
        if isinstance(node, (dict, list)):
            keys = node.keys() if isinstance(node, dict) else range(len(node))
            total = 1 + sum(self._size((*path, key)) for key in keys)
        elif isinstance(node, str):
            if "${" in _REFERENCE.sub("", node):
                raise UsageError(
                    f"{self._name}, {_dotted(path)}={node[:100]!r}: only references to keys (${{a.b}}) are read"
                )
            targets = (self._resolved(match, path) for match in _REFERENCE.findall(node))
            total = 1 + len(node) + sum(self._size(target) for target in targets if target is not None)
        else:
            total = 1
        if total > MAX_EXPANDED:
            raise UsageError(f"{self._name}, {_dotted(path)}: more than {MAX_EXPANDED} values, references written out")
        self._sizes[path] = total
        return total

    def _resolved(self, reference: str, path: tuple) -> tuple | None:
        """The path that a reference at ``path`` refers to; None if it refers to nothing."""
        dots = len(reference) - len(reference.lstrip("."))
        found = path[: len(path) - dots] if dots else ()
        for part in re.split(r"[.\[]", reference[dots:].replace("]", "")):
            found = self._followed(found)
            node = None if found is None else self._at(found)
            if isinstance(node, dict) and part in node:
                found = (*found, part)
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                found = (*found, int(part))
            else:
                return None
        return found

    def _followed(self, path: tuple) -> tuple | None:
        """Follow values that are only a reference."""
        for _ in range(MAX_DEPTH):
            node = self._at(path)
            match = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
            if match is None:
                return path
            path = self._resolved(match[1], path)
            if path is None:
                return None
        raise UsageError(f"{self._name}, {_dotted(path)}: a reference that does not end")

    def _at(self, path: tuple) -> Any:
        node: Any = self._root
        for key in path:
            node = node[key]
        return node


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
