"""The shell of a training command: processes, exit codes, errors on one line."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

import torch
import torch.multiprocessing as mp
from detectron2.engine import launch
from detectron2.utils import comm

from ..distributed import check_num_processes, is_launched_process, join_process_group
from ..errors import NonFiniteElsewhereError, UsageError, UserError, report_error


def run_command(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run ``main(args)`` in ``args.num_gpus`` processes a machine and return the exit code.

    In a process that ``torchrun`` started, join the others instead.

    0 for success, 1 for an error that the user can fix, 2 for a command line or config that makes no
    sense, 128 + n for signal n. Such errors are one line on stderr; any other exception keeps its traceback.
    """
    device = next((o.partition("=")[2] for o in reversed(args.opts) if o.startswith("train.device=")), None)
    several = args.num_gpus * args.num_machines > 1
    launched = is_launched_process()
    try:
        if several and launched:
            raise UsageError("torchrun starts the processes; leave out --num-gpus and --num-machines")
        check_num_processes(args.num_gpus, device)
        if (several or launched) and device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # NCCL is taken where there is a GPU
        if launched:
            join_process_group()
            main(args)
            torch.distributed.destroy_process_group()
            return 0
        if several:
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, _forward)
        launch(
            _Guarded(main),
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except UserError as error:
        return _report(error)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except mp.ProcessExitedException as error:  # a process has reported its error and left with this code
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.join()
        return 128 + signal.SIGINT
    return 0


class _Guarded:
    """``main`` with its user errors turned into an exit code, in whatever process it runs; can be pickled."""

    def __init__(self, main: Callable[[argparse.Namespace], object]):
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        try:
            self.main(args)
        except UserError as error:
            sys.exit(_report(error))


def _report(error: UserError) -> int:
    if error.__cause__ is not None:
        # The traceback goes to the log file only; the terminal gets one line.
        _to_log_file("".join(traceback.format_exception(error)))
    if comm.is_main_process() or not isinstance(error, NonFiniteElsewhereError):
        return report_error(error)
    return error.exit_code


def _to_log_file(text: str) -> None:
    for handler in logging.getLogger("sqr").handlers:
        if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "name", "").endswith("log.txt"):
            handler.stream.write(re.sub(r"\x1b\[\d*m", "", text))
            handler.flush()


def _forward(number: int, frame: object) -> None:
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
