"""Converts this package's names back to a published layout by inverting the layout's rules.

A rule ``(pattern, replacement)`` is turned round: what its groups stand for is matched in our name, and the pattern's
text around the groups is the published name. Optional parts, such as mmdet's ``(?:roi_head\\.)?``, are written. Several
rules may be able to make a name; the one that spells out most of it is meant, and of equals the first. A tensor that
the layout has in parts is split. The result is read forward again and must be what it was made from.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .conversion import Layout, Part, StateDict, forward_names, has_no_bias, rename

COUNTERS = "num_batches_tracked"  # of BatchNorm: some published files have it, but no result depends on it


def restore(state_dict: StateDict, layout: Layout) -> dict[str, Tensor]:
    """A state dict with this package's names under a published layout's.

    Modules that stages share are written once, and those that the published model lists twice are written twice; batch
    norm's counters are not written.

    Raises:
        ValueError: a tensor that the layout has no name for, or stages that differ in what the layout shares.
    """
    ours = {k: v for k, v in state_dict.items() if not k.endswith(COUNTERS)}
    biases = [k for k in ours if has_no_bias(layout, k, "bias")]
    if any(ours[k].any() for k in biases):
        raise ValueError(f"the layout {layout.name} cannot hold this model: it has no {', '.join(biases)}")
    rules = [rule for rule in layout.rules(ours) if rule[1] is not None]
    inverted = [pair for pattern, new in rules for pair in _invert(pattern, new)]
    forward = [(re.compile(pattern), new) for pattern, new in rules]
    names = {key: _published_names(key, inverted, forward) for key in ours if key not in biases}
    unknown = [key for key, found in names.items() if not found]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(ours)} tensors have no name in the layout {layout.name}: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}"
        )
    published: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, name, part in ((key, *found) for key, several in names.items() for found in several):
        tensor = ours[key] if part is None else ours[key].chunk(part.count)[part.index]
        if not torch.equal(published.setdefault(name, tensor), tensor):
            raise ValueError(
                f"the layout {layout.name} has one {name} for all stages, but {origin[name]} and {key} differ"
            )
        origin.setdefault(name, key)
    _add_copies(published, layout.copies(ours))
    _check_round_trip(ours, published, layout)
    return published


def _add_copies(published: dict[str, Tensor], copies: list[tuple[str, str]]) -> None:
    for pattern, replacement in copies:
        for key in list(published):
            match = re.fullmatch(pattern, key)
            if match:
                published[match.expand(replacement)] = published[key]


def _check_round_trip(ours: StateDict, published: StateDict, layout: Layout) -> None:
    again, _ = rename(published, layout)
    lost = sorted(set(ours) ^ set(again)) or [k for k in ours if not torch.equal(ours[k], again[k])]
    if lost:
        raise ValueError(f"the layout {layout.name} cannot hold this model: {', '.join(lost[:5])} would not come back")


def _published_names(key: str, inverted: list, forward: list) -> list[tuple[str, Part | None]]:
    """The published names whose forward rules give ``key``, or one for each part of it.

    Of several rules, the one with the least text in groups is used.
    """
    best: dict[int | None, tuple[int, str, Part | None]] = {}
    for pattern, template, part in inverted:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        name = "".join(piece if isinstance(piece, str) else match[f"g{piece}"] for piece in template)
        captured = sum(len(text) for text in match.groupdict().values())
        slot = part and part.index
        if (slot not in best or captured < best[slot][0]) and (key, part) in (forward_names(name, forward) or []):
            best[slot] = captured, name, part
    return [(name, part) for _, name, part in best.values()]


def _invert(
    pattern: str, replacement: str | tuple[str, ...] | Part
) -> list[tuple[re.Pattern, list[str | int], Part | None]]:
    """The pattern of our name, the published name's parts (text, or a group's number) and the part of our tensor.

    One per name of the rule.
    """
    parts, groups = _parse(pattern)
    part = replacement if isinstance(replacement, Part) else None
    names = replacement if isinstance(replacement, tuple) else [part.name if part else replacement]
    inverted = []
    for name in names:
        pieces = re.split(r"\\(\d)", name)  # text, group, text, group, ..., text
        if sorted(map(int, pieces[1::2])) != sorted(groups):
            continue  # it drops a group and cannot be inverted
        ours = "".join(
            f"(?P<g{piece}>{groups[int(piece)]})" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)
        )
        inverted.append((re.compile(ours), parts, part))
    return inverted


def _parse(pattern: str) -> tuple[list[str | int], dict[int, str]]:
    """A rule's pattern as text and group numbers, and the groups' own patterns. Optional parts count as text."""
    parts: list[str | int] = []
    groups: dict[int, str] = {}
    i = 0
    while i < len(pattern):
        if pattern[i] == "\\":
            parts.append(pattern[i + 1])
            i += 2
        elif pattern[i] == "(":
            end = _closing(pattern, i)
            inside = pattern[i + 1 : end]
            if inside.startswith("?:"):
                parts.append(inside[2:].replace("\\", ""))
                end += 1  # its question mark
            else:
                groups[len(groups) + 1] = inside
                parts.append(len(groups))
            i = end + 1
        else:
            parts.append(pattern[i])
            i += 1
    return parts, groups


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for i in range(start, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[i], 0)
        if depth == 0:
            return i
    raise AssertionError(f"unbalanced parentheses in {pattern}")
