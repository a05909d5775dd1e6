"""Devices and processes: one or several processes on CPUs or GPUs, and their failures."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .errors import ProcessLostError, UsageError, UserError, one_line


def resolve_device(name: str) -> torch.device:
    """``train.device`` as the device of this process.

    Raises:
        UsageError: the device is unknown or absent.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"train.device={name}: not a device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"train.device={name}, but this machine has no usable CUDA device; use train.device=cpu")
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise UsageError(f"train.device={name}, but there are only {count} CUDA devices (cuda:0 on)")
        if device.index is None and comm.get_world_size() > 1:
            device = torch.device("cuda", comm.get_local_rank())
    return device


def check_num_processes(num_gpus: int, device: str | None) -> None:
    """Check ``--num-gpus`` against the machine; on CPU it is the number of processes.

    Raises:
        UsageError: more GPUs than there are, or a negative number.
    """
    if num_gpus < 0:
        raise UsageError(f"--num-gpus {num_gpus}: must not be negative")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available and device != "cpu" and num_gpus > available:
        raise UsageError(f"--num-gpus {num_gpus}, but this machine has {available}")


_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_launched_process() -> bool:
    """Whether ``torchrun``, or a scheduler that sets the same variables, started this process as one of several."""
    return all(name in os.environ for name in _ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


def join_process_group() -> None:
    """Join the processes that the environment variables of ``torchrun`` describe, as Detectron2's ``launch`` does.

    Raises:
        UsageError: more processes on this machine than GPUs.
    """
    use_gpu = torch.cuda.is_available()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if use_gpu:
        if local_size > torch.cuda.device_count():
            raise UsageError(
                f"{local_size} processes on this machine, which has {torch.cuda.device_count()} GPUs; start one a GPU"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    comm.synchronize()


def create_ddp_model(
    model: nn.Module,
    *,
    broadcast_buffers: bool = False,
    find_unused_parameters: bool = False,
    fp16_compression: bool = False,
) -> nn.Module:
    """Wrap a model for several processes, on CPU too; with one process it is returned unchanged.

    Detectron2's function of this name always passes ``device_ids``, which PyTorch refuses for modules on
    the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    ddp = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=broadcast_buffers,
        find_unused_parameters=find_unused_parameters,
    )
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


def lost_worker(text: str) -> UserError:
    """The error of a data loader process that died; ``text`` is PyTorch's message."""
    return UserError(
        f"a data loading process ended ({text[:200]}); it was killed, often for want of memory: lower "
        "dataloader.train.num_workers or the image sizes"
    )


_LOST_PROCESS = ("connection closed by peer", "connection reset by peer", "broken pipe", "ncclremoteerror")
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def machine_failure(error: BaseException) -> UserError | None:
    """Translate failures of the machine that libraries report as a bare ``RuntimeError``.

    Returns:
        An error that says what happened and what to change, if a loader's worker process or another process of the
        run was killed or memory ran out; None for any other exception.
    """
    if not isinstance(error, (RuntimeError, MemoryError)):
        return None
    text = one_line(error)
    if "DataLoader worker (pid" in text:
        return lost_worker(text)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in text.lower() for word in _NO_MEMORY):
        last_line = (str(error).strip().splitlines() or [text])[-1]  # below a worker's traceback
        return UserError(
            f"out of memory ({last_line[:200]}): lower dataloader.train.total_batch_size or the image sizes, or raise "
            "train.accumulation_steps"
        )
    if dist.is_initialized() and any(word in text.lower() for word in _LOST_PROCESS):
        return ProcessLostError("another process of this run ended; it reports why, unless it was killed")
    return None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel wrapper, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model
