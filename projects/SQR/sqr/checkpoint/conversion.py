"""Recognise a published checkpoint layout and rename its keys to this package's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]
Rules = Sequence[tuple[str, "str | tuple[str, ...] | Part | None"]]


@dataclass(frozen=True)
class Part:
    """A replacement: this tensor is the ``index``-th of ``count`` equal parts of ours, along the first axis.

    This converts separate query, key and value projections to one packed projection and back.
    """

    name: str
    index: int
    count: int


@dataclass(frozen=True)
class Layout:
    """A published naming of a detector's parameters.

    Attributes:
        name: shown to users.
        source: the repository that writes it.
        signature: regular expressions; each must fully match some key for the layout to be recognised.
        rules: given the state dict, ``(pattern, replacement)`` pairs; the first pattern that fully matches a key
            renames it, a replacement of None leaves the key out (it repeats another or is not a weight), a tuple gives
            the tensor several names (stages share the module; each stage's state lists it), a :class:`Part` joins it
            with others. The reverse conversion calls it with a state dict of this package's names.
        copies: given a state dict of this package's names, ``(pattern, replacement)`` pairs: the published model lists
            the key that the pattern matches a second time.
        without_bias: of the modules, by this package's names, that have a bias here and none there; it is zero.
        nesting: the key of the weights in published files; empty if the files contain only weights.
    """

    name: str
    source: str
    signature: tuple[str, ...]
    rules: Callable[[StateDict], Rules]
    copies: Callable[[StateDict], list[tuple[str, str]]] = lambda state_dict: []
    without_bias: str | None = None
    nesting: str = "model"

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The expressions of the signature that no key matches."""
        return [pattern for pattern in self.signature if not any(re.fullmatch(pattern, k) for k in keys)]


@dataclass
class ConversionReport:
    """What a conversion did.

    Attributes:
        layout: its name.
        prefix: what a wrapper, such as Lightning's module, has before the names.
        renamed: old -> new, the first new name where there are several.
        dropped: the keys that were left out.
    """

    layout: str
    prefix: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.layout}: {len(self.renamed)} tensors taken over, {len(self.dropped)} left out"


def rename(state_dict: StateDict, layout: Layout) -> tuple[dict[str, Tensor], ConversionReport]:
    """Apply a layout's rules.

    Raises:
        ValueError: keys that no rule knows, or tensors of which some parts are missing; the message names the first.
    """
    rules = [(re.compile(pattern), replacement) for pattern, replacement in layout.rules(state_dict)]
    report = ConversionReport(layout.name)
    converted: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for key, tensor in state_dict.items():
        names = forward_names(key, rules)
        if names is None:
            unknown.append(key)
            continue
        if not names:
            report.dropped.append(key)
            continue
        report.renamed[key] = names[0][0]
        for name, part in names:
            converted[name] = tensor  # placeholder for a part
            if part is not None:
                parts.setdefault(name, dict.fromkeys(range(part.count)))[part.index] = tensor
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(f"{len(unknown)} of {len(state_dict)} keys do not belong to the layout {layout.name}: {shown}")
    for name, tensors in parts.items():
        if any(tensor is None for tensor in tensors.values()):
            found = [key for key, new in report.renamed.items() if new == name]
            raise ValueError(f"{name} needs {len(tensors)} tensors of the layout {layout.name}; only {found} are there")
        converted[name] = torch.cat(list(tensors.values()))
    for name in [name for name in converted if has_no_bias(layout, name, "weight")]:
        converted.setdefault(name.removesuffix("weight") + "bias", converted[name].new_zeros(len(converted[name])))
    return converted, report


def forward_names(key: str, rules: Sequence[tuple[re.Pattern, object]]) -> list[tuple[str, Part | None]] | None:
    """This package's names of a published key, each with the part of it that the key is (None: all of it).

    Empty if the key is left out; None if no rule matches it.
    """
    for pattern, replacement in rules:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        if replacement is None:
            return []
        if isinstance(replacement, Part):
            return [(match.expand(replacement.name), replacement)]
        names = [replacement] if isinstance(replacement, str) else replacement
        return [(match.expand(name), None) for name in names]
    return None


def has_no_bias(layout: Layout, name: str, kind: str) -> bool:
    """Whether a parameter of this package, ``weight`` or ``bias``, is of a module without a bias in the layout."""
    module, _, last = name.rpartition(".")
    return layout.without_bias is not None and last == kind and re.fullmatch(layout.without_bias, module) is not None


def unknown_keys(state_dict: StateDict, layout: Layout) -> list[str]:
    """The keys that no rule of a layout matches."""
    rules = [re.compile(pattern) for pattern, _ in layout.rules(state_dict)]
    return [key for key in state_dict if not any(rule.fullmatch(key) for rule in rules)]


def indices(state_dict: StateDict, pattern: str) -> int:
    """The number of different values of a pattern's first group over all keys."""
    return len({m.group(1) for key in state_dict if (m := re.match(pattern, key))})


def num_stages(state_dict: StateDict) -> int:
    """Decoder stages of a state dict, of this package's names or of those of most published layouts."""
    return indices(state_dict, r"(?:(?:transformer|model)\.decoder\.layers|decoder\.stages)\.(\d+)\.")
