"""A live progress line on a terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

from detectron2.engine import HookBase
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


class ProgressLine(HookBase):
    """Iterations, time left and loss on the terminal's last row; log lines scroll above it.

    If stderr is not a terminal, only the log is printed.
    """

    def __init__(self):
        self._open = ExitStack()
        self._line: tqdm | None = None

    def before_train(self) -> None:
        if not sys.stderr.isatty():
            return
        trainer = self.trainer
        self._line = self._open.enter_context(
            tqdm(total=trainer.max_iter, initial=trainer.start_iter, unit="it", dynamic_ncols=True, leave=False)
        )
        loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "sqr")]
        self._open.enter_context(logging_redirect_tqdm([logger for logger in loggers if logger.handlers]))

    def after_step(self) -> None:
        if self._line is None:
            return
        latest = self.trainer.storage.latest()
        if "total_loss" in latest:
            self._line.set_postfix(loss=f"{latest['total_loss'][0]:.4g}", refresh=False)
        self._line.update()

    def after_train(self) -> None:
        self._open.close()
        self._line = None
