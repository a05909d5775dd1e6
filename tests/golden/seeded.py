"""Weights and images as functions of names and seeds, so that a full-size model needs no file to be tested.

A tensor is drawn from its published key and shape alone; the rule depends on what kind of parameter the key names, so
that features neither vanish nor explode and queries differ from each other. The official implementations were run
once on these weights; figures sampled from their outputs stand in ``tests/golden/figures/``.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

LEARNED_TABLES = ("query_embed.weight", "query_embedding.weight", "tgt_embed.weight", "patterns.weight",
                  "patterns_embed.weight", "init_content_features.weight", "level_embed")  # fmt: skip
ANCHOR_TABLES = ("refpoint_embed.weight", "anchor_box_embed.weight")
QUERY_KEY_MAPS = ("qcontent_proj.weight", "kcontent_proj.weight", "qpos_proj.weight", "kpos_proj.weight",
                  "qpos_sine_proj.weight", "query_content_proj.weight", "key_content_proj.weight",
                  "query_pos_proj.weight", "key_pos_proj.weight", "query_pos_sine_proj.weight")  # fmt: skip
SMALL_MAPS = ("fc_reg.weight", "sampling_offset_generator.")

F32 = np.float32


def tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of one published key."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if not shape:
        return torch.ones(())
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(F32)
    y = _matrix(key, x) if x.ndim > 1 else _vector(key, x)
    return torch.from_numpy(np.ascontiguousarray(y, dtype=F32))


def _matrix(key: str, x: np.ndarray) -> np.ndarray:
    if key.endswith("init_proposal_bboxes.weight"):
        return np.array([0.5, 0.5, 1, 1], F32) + F32(0.1) * x
    if key.endswith(ANCHOR_TABLES):
        return x * np.array([3.5, 3.5, 1, 1], F32)
    if any(name in key for name in LEARNED_TABLES):
        return x
    rows = x.reshape(len(x), -1)
    n = rows.shape[1]
    if n > 1:  # every output sums to zero over a constant input
        rows = (rows - np.roll(rows, n // 2, axis=1)) * F32(math.sqrt(0.5))
    rows = rows / F32(math.sqrt(n))
    if x.ndim > 2:
        rows = rows * F32(1.15)
    elif key.endswith("in_proj_weight"):
        rows[: 2 * (len(x) // 3)] *= F32(2)
    elif any(name in key for name in QUERY_KEY_MAPS):
        rows = rows * F32(4)
    elif any(name in key for name in SMALL_MAPS):
        rows = rows * F32(0.1)
    return rows.reshape(x.shape)


def _vector(key: str, x: np.ndarray) -> np.ndarray:
    if key.endswith("running_var"):
        return F32(1) + F32(0.1) * np.abs(x)
    if key.endswith("weight"):
        return F32(0.25) + F32(0.02) * x if x.shape == (1,) else F32(1) + F32(0.1) * x
    if key.endswith("enc_output.bias"):  # keeps padded tokens out of a two-stage model's best
        row = tensor("transformer.decoder.class_embed.6.weight", (1, len(x))).numpy()[0]
        return F32(-1.6) * row
    return F32(0.5 if "sampling_offset_generator" in key else 0.1) * x


def state(keys: list[tuple[str, tuple[int, ...]]], ties: list[list[str]]) -> dict[str, Tensor]:
    """A published state dict; keys that are one parameter take the value of their group's first key."""
    first = {key: group[0] for group in ties for key in group}
    return {key: tensor(first.get(key, key), tuple(shape)) for key, shape in keys}


def images(seed: int, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """``(3, h, w)`` float32 RGB in [0, 255)."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.uniform(0, 255, (3, h, w)).astype(F32)) for h, w in sizes]
