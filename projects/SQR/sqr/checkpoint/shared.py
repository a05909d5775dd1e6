"""Modules that exist once in a model but several times in a state dict.

Modules shared by stages (output norm, heads, position networks) are saved once in published files, but listed in every
stage's state here, so rules give such a tensor one name per stage. Some published models also list their heads twice.
"""

from __future__ import annotations

import re

import torch

from .conversion import StateDict


def every_stage(num_stages: int, name: str, *, first: int = 0) -> tuple[str, ...]:
    """The same parameter in every stage from ``first`` on; ``name`` may refer to the pattern's groups."""
    return tuple(f"decoder.stages.{stage}.{name}" for stage in range(first, num_stages))


def heads_twice(state_dict: StateDict, decoder: str = "transformer.decoder") -> list[tuple[str, str]]:
    """The heads that the forms of Deformable DETR also list under the decoder (:attr:`Layout.copies`).

    None in the plain form, whose stages have one pair of heads; the box heads with refinement; all heads in the
    two-stage form.

    Args:
        state_dict: of this package's names.
        decoder: the published decoder's name.
    """
    if any(k.startswith("query_generator.class_embed.") for k in state_dict):
        return [(r"((?:class|bbox)_embed\..+)", decoder + r".\1")]
    head = re.compile(r"decoder\.stages\.\d+\.(bbox_embed\..+)")
    first = {m[1]: v for k, v in state_dict.items() if (m := head.fullmatch(k)) and ".stages.0." in k}
    plain = all(torch.equal(v, first[m[1]]) for k, v in state_dict.items() if (m := head.fullmatch(k)))
    return [] if plain else [(r"(bbox_embed\..+)", decoder + r".\1")]
