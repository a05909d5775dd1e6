"""Runs training commands: processes, exit codes, one-line errors."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import torch
import torch.multiprocessing as mp
from detectron2.engine import launch
from detectron2.utils import comm

from ..distributed import check_num_processes, is_launched_process, join_process_group, machine_failure
from ..engine.log_file import log_to_file
from ..errors import NonFiniteElsewhereError, ProcessLostError, UsageError, UserError, one_line, report_error


def run_command(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run ``main(args)`` in ``args.num_gpus`` processes a machine and return the exit code.

    In a process that ``torchrun`` started, join the others instead.

    0 for success, 1 for an error that the user can fix, 2 for an invalid command line or
    config, 128 + n for signal n. Such errors are one line on stderr; any other exception keeps its traceback.
    """
    device = next((o.partition("=")[2] for o in reversed(args.opts) if o.startswith("train.device=")), None)
    several = args.num_gpus * args.num_machines > 1
    launched = is_launched_process()
    try:
        if several and launched:
            raise UsageError("torchrun starts the processes; leave out --num-gpus and --num-machines")
        check_num_processes(args.num_gpus, device)
        if (several or launched) and device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # NCCL is used if there is a GPU
        if launched:
            join_process_group()
            _Guarded(main)(args)
            torch.distributed.destroy_process_group()
            return 0
        if several:
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, _forward)
            logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
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
    except mp.ProcessExitedException as error:
        if error.exit_code > 0:  # it has reported its error
            return error.exit_code
        report_error(
            UserError(
                f"process {error.error_index} was ended by {error.signal_name} (SIGKILL is also what the system sends "
                "when memory runs out); a training resumes from its last checkpoint with --resume"
            )
        )
        return 128 - error.exit_code
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.join()
        return 128 + signal.SIGINT
    return 0


_WAIT_FOR_MAIN = 2.0  # seconds


class _Guarded:
    """``main`` with its user errors turned into an exit code, in any process; picklable."""

    def __init__(self, main: Callable[[argparse.Namespace], object]):
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        threading.excepthook = _thread_failed
        try:
            self.main(args)
        except Exception as error:
            known = error if isinstance(error, UserError) else machine_failure(error)
            if known is None:
                raise
            if known is not error:
                known.__cause__ = error
            sys.exit(_report(known))


def _report(error: UserError) -> int:
    """Report an error of one or several processes; returns the exit code."""
    if error.__cause__ is not None:
        # The traceback goes to the log file only; the terminal gets one line.
        log_to_file("".join(traceback.format_exception(error)))
    if not comm.is_main_process():
        if isinstance(error, (NonFiniteElsewhereError, ProcessLostError)):
            return error.exit_code
        # An error of all processes is reported by the main one; the launcher then ends this one.
        time.sleep(_WAIT_FOR_MAIN)
    return report_error(error)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report a failed write of TensorBoard's thread on one line: the disk is full, which others report too."""
    if isinstance(failure.exc_value, OSError):
        print(f"warning: {one_line(failure.exc_value)}", file=sys.stderr, flush=True)
    else:
        threading.__excepthook__(failure)


def _forward(number: int, frame: object) -> None:
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
