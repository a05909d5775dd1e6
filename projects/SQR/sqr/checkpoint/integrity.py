"""Checks of checkpoint files: damage and size."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, one_line


def check_archive(path: str, name: str) -> None:
    """Compare the content of a ``torch.save`` file with the checksums in it (CRC-32, one for each tensor).

    ``torch.load`` does not compare them: a flipped bit would become a wrong weight. Files older than PyTorch 1.6 are
    not archives and have no checksums.

    Raises:
        UserError: damaged, or compressed, which ``torch.save`` never does but a small file with huge tensors would be.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"{name} is not a readable checkpoint: {entry.filename} in it is compressed")
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is not a readable checkpoint: {one_line(error)[:300]}") from error
    if damaged:
        raise UserError(f"{name} is not a readable checkpoint: it is damaged, the checksum of {damaged} differs")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return total.hexdigest()


def check_sizes(tensors: Mapping[str, Tensor], name: str) -> None:
    """Reject tensors that are larger than their storage (expanded views), which a copy would materialise.

    Raises:
        UserError: the first such tensor.
    """
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{name} is not a readable checkpoint: {key} {tuple(tensor.shape)} is not a plain tensor")


def flat_tensors(data: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts and lists, and their dotted names."""
    if isinstance(data, Tensor):
        yield prefix, data
    elif isinstance(data, (Mapping, list, tuple)):
        items = data.items() if isinstance(data, Mapping) else enumerate(data)
        for key, value in items:
            yield from flat_tensors(value, f"{prefix}.{key}" if prefix else str(key))
