"""A run's output folder: used by one process at a time; an earlier run in it is moved aside, not overwritten."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.engine import HookBase

from ..errors import UserError, as_user_error

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None

logger = logging.getLogger(__name__)

_OF_A_RUN = (
    "model_*.pth", "last_checkpoint", "evaluations.json", "metrics.json", "config.yaml", "environment.txt", "log.txt*",
    "events.out.tfevents.*", "ema", "inference",
)  # fmt: skip


_LOCK = ".lock"


class FolderTakenError(UserError):
    """Another run uses the folder now: nothing more may be written to it."""


class FolderCheck(HookBase):
    """Ends a training whose folder was removed or emptied, or was taken by another run after that.

    After the error for a removed folder, a checkpoint is saved in a new folder of that name.

    Args:
        folder: the run's, with its ``config.yaml``.
        lock: from :func:`locked`.
    """

    def __init__(self, folder: str | os.PathLike, lock: int):
        self._folder, self._lock = Path(folder), lock

    def after_step(self) -> None:
        name = f"train.output_dir={self._folder}"
        try:
            own = os.path.samestat(os.stat(self._folder / _LOCK), os.fstat(self._lock))
        except FileNotFoundError:
            own = True
        if not own:
            raise FolderTakenError(f"{name} was removed during the run, and another run has taken it; nothing is saved")
        if not (self._folder / "config.yaml").exists():
            raise UserError(f"{name} was removed or emptied during the run")


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[int]:
    """Hold the lock of a run's folder and yield its descriptor; the system releases it however the process ends.

    Raises:
        UserError: another process trains into this folder, or it cannot be written.
    """
    path = Path(folder) / _LOCK
    with as_user_error(OSError, prefix="train.output_dir: "):
        file = open(path, "a+")  # noqa: SIM115
    with file:
        if fcntl is not None:
            try:
                # A record lock belongs to the process: loader workers, which inherit the file, do not keep it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                raise UserError(
                    f"train.output_dir={folder}: {holder} trains into this folder; wait for it, or set another one"
                ) from error
        with as_user_error(OSError, prefix="train.output_dir: "):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield file.fileno()


def set_aside_earlier_run(folder: str | os.PathLike) -> Path | None:
    """Move the files of an earlier run in the folder to ``earlier_1`` (2, 3, ...).

    Returns:
        The new path; None if there was no checkpoint in the folder.
    """
    folder = Path(folder)
    if not (folder / "last_checkpoint").exists() and not any(folder.glob("model_*.pth")):
        return None
    number = 1
    while (folder / f"earlier_{number}").exists():
        number += 1
    place = folder / f"earlier_{number}"
    place.mkdir()
    for pattern in _OF_A_RUN:
        for path in folder.glob(pattern):
            os.replace(path, place / path.name)
    return place
