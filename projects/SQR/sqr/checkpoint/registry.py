"""Recognise the layout of a state dict, convert it to this package's names, and back."""

from __future__ import annotations

import re

from .conversion import ConversionReport, Layout, StateDict, rename, unknown_keys
from .inversion import restore
from .layouts import LAYOUTS

NATIVE = "sqr"
"""The name of this package's own layout."""


def detect_layout(state_dict: StateDict) -> str:
    """The name of the layout that a state dict is written in, from its keys.

    Raises:
        ValueError: none fits; the message names the nearest layout and what it lacks.
    """
    keys = list(state_dict)
    if any(k.startswith(("decoder.stages.0.", "network.model.")) for k in keys):
        return NATIVE
    missing = {layout.name: layout.missing(keys) for layout in LAYOUTS}
    for layout in LAYOUTS:
        if not missing[layout.name]:
            return layout.name
    raise ValueError(_no_layout(state_dict, missing))


def _no_layout(state_dict: StateDict, missing: dict[str, list[str]]) -> str:
    """What to say of keys that no layout fits: the nearest one, what it lacks, the first keys that are not its own."""
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
        state_dict: the weights themselves, not the file's outer dictionary.
        layout: its layout; recognised from the keys when None.

    Returns:
        The renamed state dict and a report.

    Raises:
        ValueError: an unknown layout, or keys that the layout does not know.
    """
    name = detect_layout(state_dict) if layout is None else layout
    if name == NATIVE:
        return dict(state_dict), ConversionReport(NATIVE, renamed={k: k for k in state_dict})
    return rename(state_dict, get_layout(name))


def convert_back(state_dict: StateDict, layout: str) -> dict:
    """Rename a state dict of this package's names to a published layout's: the reverse of :func:`convert`.

    Args:
        state_dict: the weights themselves.
        layout: name of a published layout.

    Raises:
        ValueError: an unknown layout, a state dict that is not of this package's names, or one that the layout cannot
            hold.
    """
    target = get_layout(layout)
    found = detect_layout(state_dict)
    if found != NATIVE:
        raise ValueError(f"the weights are in the layout {found}, not in this package's; convert them first")
    return restore(state_dict, target)
