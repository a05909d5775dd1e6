"""Atomic file writing: a reader sees the old content or the new one, never a part of either."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
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
        ValueError: ``content`` contains NaN or infinity, which JSON does not support.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested too deeply.
        OSError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {' '.join(str(error).split())[:200]}") from error


def json_line(row: Mapping[str, Any]) -> str:
    """A row of a JSON-lines file; numbers that JSON does not support (NaN, infinity) become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain, sort_keys=True, allow_nan=False) + "\n"


def append_row(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Append a row to a JSON-lines file in one write, on a new line even if the previous one is incomplete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(("\n" * torn + json_line(row)).encode())
        os.fsync(file.fileno())


def read_rows(path: str | os.PathLike) -> list[dict]:
    """The rows of a JSON-lines file; incomplete lines are skipped, a missing file has none."""
    try:
        lines = Path(path).read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
