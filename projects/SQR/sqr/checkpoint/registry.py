"""Recognise the layout of a state dict, convert it to this package's names, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor

from .conversion import ConversionReport, Layout, StateDict, rename, unknown_keys
from .inversion import restore
from .layouts import LAYOUTS

NATIVE = "sqr"
"""The name of this package's own layout."""


_WRAPPERS = ("model.", "module.", "net.", "network.", "detector.", "_forward_module.")


def detect_layout(state_dict: StateDict) -> str:
    """The name of the layout that a state dict is written in, from its keys.

    Raises:
        ValueError: none fits; the message names the nearest layout and what it lacks.
    """
    found = _recognise(state_dict, (NATIVE, *(layout.name for layout in LAYOUTS)))
    if found:
        return found[0]
    raise ValueError(_no_layout(state_dict, {layout.name: layout.missing(list(state_dict)) for layout in LAYOUTS}))


def _recognise(state_dict: StateDict, names: Sequence[str]) -> tuple[str, str] | None:
    """Which of some layouts a state dict has, and the prefix that a training framework put before its keys."""
    for prefix, inner in without_wrappers(state_dict):
        for name in names:
            if name == NATIVE:
                fits = any(k.startswith(("decoder.stages.0.", "network.model.")) for k in inner)
            else:
                fits = not get_layout(name).missing(list(inner))
            if fits:
                return name, prefix
    return None


def without_wrappers(state_dict: StateDict, prefix: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dict, then what it holds below the attribute of a wrapper, such as Lightning's ``model.``.

    Yields:
        The prefix so far and the tensors below it, by what follows the prefix.
    """
    yield prefix, dict(state_dict)
    for wrapper in _WRAPPERS:
        inner = {k.removeprefix(wrapper): v for k, v in state_dict.items() if k.startswith(wrapper)}
        if inner:
            yield from without_wrappers(inner, prefix + wrapper)


def _no_layout(state_dict: StateDict, missing: dict[str, list[str]]) -> str:
    """The error for keys that fit no layout: the nearest one, what it lacks, the first keys not in it."""
    strangers = {layout.name: unknown_keys(state_dict, layout) for layout in LAYOUTS}
    nearest = min(LAYOUTS, key=lambda c: (len(missing[c.name]) / len(c.signature), len(strangers[c.name])))
    expected = ", ".join(re.sub(r"\\|\(\?:|\)\?", "", pattern) for pattern in missing[nearest.name])
    text = f"unknown checkpoint layout: the nearest is {nearest.name} ({nearest.source}), but there is no {expected}"
    unknown = strangers[nearest.name]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        text += f", and {len(unknown)} of the {len(state_dict)} keys do not belong to it: {shown}"
    return text


def get_layout(name: str) -> Layout:
    """A published layout by its name.

    Raises:
        ValueError: there is none of that name.
    """
    by_name = {layout.name: layout for layout in LAYOUTS}
    if name not in by_name:
        raise ValueError(f"unknown layout {name!r}; one of {', '.join([NATIVE, *by_name])}")
    return by_name[name]


def convert(state_dict: StateDict, layout: str | None = None) -> tuple[dict, ConversionReport]:
    """Rename a published state dict to this package's names.

    Args:
        state_dict: the weights themselves, not the file's outer dictionary. Names may have a wrapper's prefix, such as
            Lightning's ``model.``; what is not below it is left out.
        layout: its layout; recognised from the keys when None.

    Returns:
        The renamed state dict and a report.

    Raises:
        ValueError: an unknown layout, or keys that the layout does not have.
    """
    name = detect_layout(state_dict) if layout is None else layout
    _, prefix = _recognise(state_dict, [name]) or (name, "")
    inner = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if name == NATIVE:
        converted, report = inner, ConversionReport(NATIVE, renamed={k: k for k in inner})
    else:
        converted, report = rename(inner, get_layout(name))
    report.prefix = prefix
    report.dropped += [key for key in state_dict if not key.startswith(prefix)]
    return converted, report


def convert_back(state_dict: StateDict, layout: str) -> dict:
    """Rename a state dict of this package's names to a published layout's: the reverse of :func:`convert`.

    Args:
        state_dict: the weights themselves.
        layout: name of a published layout.

    Raises:
        ValueError: an unknown layout, a state dict that is not of this package's names, or one that the layout cannot
            represent.
    """
    target = get_layout(layout)
    found = detect_layout(state_dict)
    if found != NATIVE:
        raise ValueError(f"the weights are in the layout {found}, not in this package's; convert them first")
    return restore(state_dict, target)
