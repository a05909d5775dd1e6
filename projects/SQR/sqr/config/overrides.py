"""Strict command-line overrides: ``key=value`` changes a key that exists, ``+key=value`` adds one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UsageError, one_line


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply overrides in place, values parsed as ``LazyConfig.apply_overrides`` parses them.

    Args:
        cfg: a loaded config.
        overrides: ``path.to.key=value`` or ``+path.to.key=value``; items of lists are named by their number.

    Returns:
        ``cfg``.

    Raises:
        UsageError: an override that cannot be parsed, names no key (the nearest ones are suggested), puts
            a value in place of a section, or text in place of a number.
    """
    parser = OverridesParser.create()
    for text in overrides:
        if "=" not in text:
            raise UsageError(f"override {text!r}: write key=value, as in train.max_iter=1000")
        try:
            override = parser.parse_override(text)
            value = override.value()
        except HydraException as error:
            key, _, raw = text.partition("=")
            raise UsageError(
                f"override {text!r} cannot be parsed ({one_line(error).split(' See https')[0]}); quote a "
                f"value with spaces or special characters: '{key}=\"{raw}\"'"
            ) from error
        if override.is_delete():
            raise UsageError(f"override {text!r}: keys cannot be removed; set it to null instead")
        key = override.key_or_group
        if not override.is_add() and not override.is_force_add():
            value = _checked(cfg, key, value, text)
        try:
            _update(cfg, key, value)
        except (OmegaConfBaseException, KeyError, IndexError, TypeError, ValueError) as error:
            raise UsageError(f"override {text!r}: {one_line(error)}") from error
    return cfg


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    """Set a key; interpolations on the way are followed, not replaced."""
    parent, _, last = key.rpartition(".")
    node = find_node(cfg, parent) if parent else cfg
    if node is not None and OmegaConf.is_config(node) and node._is_interpolation():
        node = node._dereference_node()
    if isinstance(node, ListConfig) or (isinstance(node, DictConfig) and not node._is_none()):
        OmegaConf.update(node, last, value, merge=True, force_add=True)
    else:
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)


def _checked(cfg: DictConfig, key: str, value: Any, text: str) -> Any:
    """The value, after checking that the key exists and takes a value of this kind."""
    node = find_node(cfg, key)
    if node is None:
        close = _nearest(key, list(dotted_keys(cfg)))
        hint = f"did you mean {' or '.join(close)}?" if close else "no key of the config is near it"
        raise UsageError(f"override {text!r}: unknown key {key}; {hint} (+{key}=... adds a new key)")
    if isinstance(node, DictConfig) and value is not None and not isinstance(value, dict):
        keys = ", ".join(f"{key}.{k}" for k in list(node.keys())[:6])
        raise UsageError(f"override {text!r}: {key} is a section; set one of its keys ({keys}, ...)")
    old = None if OmegaConf.is_config(node) else node._value()
    if isinstance(old, (bool, int, float)) and isinstance(value, str) and not value.startswith("${"):
        kind = "true or false" if isinstance(old, bool) else "a number"
        raise UsageError(f"override {text!r}: {key} takes {kind} (it is {old})")
    if type(old) is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e5 for a count
    return value


def find_node(cfg: DictConfig, key: str) -> Any:
    """The node at a dotted key (interpolations on the way followed, its own value not), or None."""
    node: Any = cfg
    for part in key.split("."):
        if node is not None and getattr(node, "_is_interpolation", lambda: False)():
            node = node._dereference_node()
        if isinstance(node, DictConfig) and not node._is_none() and part in node.keys():  # noqa: SIM118
            node = node._get_node(part)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return None
    return node


def dotted_keys(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config, sections included, targets left out."""
    if OmegaConf.is_config(cfg) and (cfg._is_none() or cfg._is_missing() or cfg._is_interpolation()):
        return
    if isinstance(cfg, DictConfig):
        names: Iterator = (k for k in cfg.keys() if k != "_target_")  # noqa: SIM118
    elif isinstance(cfg, ListConfig):
        names = iter(range(len(cfg)))
    else:
        return
    for name in names:
        key = f"{prefix}{name}"
        yield key
        yield from dotted_keys(cfg._get_node(name), f"{key}.")


def _nearest(key: str, keys: list[str]) -> list[str]:
    """Up to three keys: those with the same last component first, then those with similar spelling."""
    last = key.rpartition(".")[2]
    lasts = {k.rpartition(".")[2] for k in keys}
    alike = difflib.get_close_matches(last, sorted(lasts), n=3, cutoff=0.75)
    by_last = [k for name in alike for k in keys if k.rpartition(".")[2] == name]
    by_last.sort(key=lambda k: -difflib.SequenceMatcher(None, k, key).ratio())
    near = by_last or difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    return list(dict.fromkeys(near))[:3]
