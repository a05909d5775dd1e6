"""Errors that the user can fix: commands print them as one line and exit with their code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can fix (a path, a value, a full disk). Programming errors stay other exceptions.

    Attributes:
        exit_code: of the command.
    """

    exit_code = 1


class UsageError(UserError):
    """A command line or config that cannot be understood; found before anything is loaded. Exit code 2."""

    exit_code = 2


class NonFiniteError(UserError, FloatingPointError):
    """A model's predictions, losses or gradients are not finite."""


class NonFiniteElsewhereError(NonFiniteError):
    """The non-finite values are in another process, which reports them, as does the main process."""


class ProcessLostError(UserError):
    """Another process of the run has ended. It reports why, unless it was killed."""


class TrainingInterrupted(UserError):
    """Training was stopped by a signal after saving a checkpoint. Exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def as_user_error(*types: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn the given exceptions into a :class:`UserError` with the same text after ``prefix``."""
    try:
        yield
    except UserError:
        raise
    except types as error:
        raise UserError(f"{prefix}{one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The text of an exception on one line (its class name if it has no text)."""
    return " ".join(str(error).split()) or type(error).__name__


def report_error(error: BaseException) -> int:
    """Print an error as one line on stderr and return the exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    return getattr(error, "exit_code", 1)
