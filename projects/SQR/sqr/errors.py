"""Errors that are the user's to mend: ``train_net.py`` prints one line and leaves with their exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can mend (a path, a value, a full disk). Programming errors stay other exceptions.

    Attributes:
        exit_code: what the command line leaves with: 1.
    """

    exit_code = 1


class UsageError(UserError):
    """A command line or config that cannot be understood; found before anything is loaded. Exit code 2."""

    exit_code = 2


class TrainingInterrupted(UserError):
    """Training was stopped by a signal after saving a checkpoint. Exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def as_user_error(*types: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn the given exceptions into a :class:`UserError` of the same text, ``prefix`` in front."""
    try:
        yield
    except UserError:
        raise
    except types as error:
        raise UserError(f"{prefix}{one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The text of an exception on one line (its class name where it has no text)."""
    return " ".join(str(error).split()) or type(error).__name__


def report_error(error: BaseException) -> int:
    """Print an error as one line on stderr and return the exit code to leave with."""
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    return getattr(error, "exit_code", 1)
