"""Detectron2's console log, and a ``log.txt`` whose write errors do not end a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..errors import as_user_error, one_line

_LOGGERS = ("fvcore", "detectron2", "sqr")


class LogFile(logging.FileHandler):
    """Appends to a log file. Write errors (a full disk) are reported in one line on stderr, and the run continues.

    Args:
        path: of the file, in a folder that exists.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path):
        super().__init__(path, encoding="utf-8", errors="replace")
        self.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        self._lost = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._lost:
            self._lost = True
            print(f"warning: {self.baseFilename} cannot be written: {one_line(error)}", file=sys.stderr, flush=True)


def setup_logs(output_dir: str | Path) -> None:
    """Log to the console (main process only) and to ``log.txt`` in a folder (``log.txt.rank1`` of process 1).

    Raises:
        UserError: the file cannot be opened.
    """
    rank = comm.get_rank()
    with as_user_error(OSError, prefix=f"{output_dir}: "):
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        file = LogFile(Path(output_dir) / ("log.txt" + f".rank{rank}" * (rank > 0)))
    for name in _LOGGERS:
        logger = setup_logger(distributed_rank=rank, name=name)
        for handler in [h for h in logger.handlers if isinstance(h, LogFile)]:  # of an earlier run in this process
            logger.removeHandler(handler)
            handler.close()
        logger.addHandler(file)


def log_to_file(text: str) -> None:
    """Append text to the log file of this process only, if there is one."""
    record = logging.LogRecord("sqr", logging.ERROR, "", 0, text, None, None)
    for handler in logging.getLogger("sqr").handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)
