"""Damage: valid documents with values replaced, removed or repeated, and valid files with bytes changed."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

# Given, since Hypothesis takes ten seconds to find the characters of its own alphabet.
LETTERS = (
    "aZ09 ._-/\\\\'\"#:{}[],=&*!|>%@`~$\t\n\r\x00\x1b\x7f\x85\xa0é\u0301ßİΣ中\u200f\u2028\ufeff\ud800\udfff\U0001f600"
)

ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "1",
         "nan", "../..", "/dev/null", "a\x00b", "\ud7ff", "é" * 300, [], {}, [None], [[[[]]]], {"": {}}, {"x": 1}]
    ),
    st.integers(-(2**40), 2**40), st.floats(), st.text(LETTERS, max_size=12),
)  # fmt: skip


def _paths(node: Any, here: tuple = ()) -> list[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, value in items:
        found += [(*here, key), *_paths(value, (*here, key))]
    return found


@st.composite
def damaged(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """The document with one to ``most`` changes."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        paths = _paths(document)
        if not paths or draw(st.integers(0, 30)) == 0:
            return copy.deepcopy(draw(ODD))
        path = draw(st.sampled_from(paths))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "other"]))
        if kind == "remove":
            del parent[path[-1]]
        elif kind == "repeat" and isinstance(parent, list):
            parent.insert(path[-1], copy.deepcopy(parent[path[-1]]))
        elif kind == "other":
            at = document
            for key in draw(st.sampled_from(paths)):
                at = at[key] if isinstance(at, (dict, list)) and (isinstance(at, dict) or isinstance(key, int)) else at
            parent[path[-1]] = copy.deepcopy(at)
        else:
            parent[path[-1]] = copy.deepcopy(draw(ODD))  # what is drawn is shared
    return document


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with bits flipped, a part removed, repeated or overwritten, or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(1, max(1, min(64, len(data) - at))))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "remove", "repeat", "zero", "random"]))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "zero":
            data[at : at + length] = bytes(length)
        else:
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
    return bytes(data)
