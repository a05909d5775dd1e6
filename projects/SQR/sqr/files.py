"""Atomic file writing: a reader sees the old content or the new one, never a part of either."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Write a binary file beside ``path``, flush it to disk, then move it into place.

    Several processes may write the same path at once; the last one to finish wins.

    Args:
        path: of the file; its folder must exist.
        write: called with the open file.

    Raises:
        OSError: the file cannot be written; ``path`` is then unchanged.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically; missing folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON atomically; missing folders are created.

    Raises:
        ValueError: ``content`` holds NaN or infinity, which JSON has not.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
