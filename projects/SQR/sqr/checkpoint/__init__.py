"""Published checkpoints in, this package's names out."""

from __future__ import annotations

from .conversion import ConversionReport, Layout, StateDict, rename
from .layouts import LAYOUTS

__all__ = ["LAYOUTS", "NATIVE", "ConversionReport", "Layout", "convert", "detect_layout"]

NATIVE = "sqr"
"""The name of this package's own layout."""


def detect_layout(state_dict: StateDict) -> str:
    """The name of the layout that a state dict is written in, from its keys.

    Raises:
        ValueError: none fits; the message names the nearest layout and what it lacks.
    """
    keys = list(state_dict)
    if any(k.startswith("decoder.stages.0.") for k in keys):
        return NATIVE
    missing = {layout.name: layout.missing(keys) for layout in LAYOUTS}
    for layout in LAYOUTS:
        if not missing[layout.name]:
            return layout.name
    nearest = min(LAYOUTS, key=lambda layout: len(missing[layout.name]) / len(layout.signature))
    raise ValueError(
        f"unknown checkpoint layout: the nearest is {nearest.name} ({nearest.source}), but no key matches "
        f"{', '.join(missing[nearest.name])}; the first keys are {', '.join(keys[:3])}"
    )


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
    by_name = {candidate.name: candidate for candidate in LAYOUTS}
    if name not in by_name:
        raise ValueError(f"unknown layout {name!r}; one of {', '.join([NATIVE, *by_name])}")
    return rename(state_dict, by_name[name])
