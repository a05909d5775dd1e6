"""The start of a run: output folder, logs, saved config, a record of the environment, seeds."""

from __future__ import annotations

import argparse
import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import detectron2
import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from omegaconf import DictConfig

import sqr

from ..config import learning_rate_advice, save_config
from ..errors import as_user_error
from ..files import write_text
from ..host_memory import keep_freed_memory
from ..runs import command_line
from .log_file import setup_logs
from .rng import seed_process
from .run_folder import locked, set_aside_earlier_run
from .wandb_writer import import_wandb


def setup_run(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Prepare ``cfg.train.output_dir``, loggers and seeds.

    Writes ``log.txt`` and ``environment.txt`` (command, versions and git state, and all versions below). A training
    that does not resume moves the files of an earlier run in the folder aside.

    Raises:
        UserError: the output folder cannot be written.
    """
    output_dir = Path(cfg.train.output_dir)
    if not args.eval_only and (cfg.train.get("wandb") or {}).get("enabled"):
        import_wandb()  # report a missing package before anything is loaded
    earlier = None
    if comm.is_main_process():
        with as_user_error(OSError, prefix="train.output_dir: "):
            output_dir.mkdir(parents=True, exist_ok=True)
        if not args.resume and not args.eval_only:
            with locked(output_dir):
                earlier = set_aside_earlier_run(output_dir)
    comm.synchronize()
    setup_logs(output_dir)
    logger = logging.getLogger(__name__)
    if comm.is_main_process():
        with as_user_error(OSError, prefix="train.output_dir: "):
            write_text(output_dir / "environment.txt", describe_environment())
            if args.eval_only and not (output_dir / "config.yaml").exists():
                record_config(cfg)
        if earlier is not None:
            logger.warning("%s held an earlier run, which is now in %s", output_dir, earlier)
    logger.info("Command: %s", command_line())
    logger.info(
        "Processes: %d  device: %s  seed: %d  output: %s (config.yaml, environment.txt, log.txt)",
        comm.get_world_size(), cfg.train.device, cfg.train.seed, output_dir,
    )  # fmt: skip
    advice = "" if args.eval_only or not args.config_file else learning_rate_advice(cfg, args.config_file)
    if advice:
        logger.warning("%s", advice)
    if torch.device(cfg.train.device).type == "cpu" and cfg.train.get("keep_freed_memory", True):
        keep_freed_memory()
    seed_process(cfg.train.seed)
    torch.backends.cudnn.benchmark = bool(cfg.train.cudnn_benchmark) and not args.eval_only


def record_config(cfg: DictConfig) -> None:
    """Write ``config.yaml`` with the settings in use; on resuming, after the checkpoint was loaded."""
    save_config(cfg, str(Path(cfg.train.output_dir) / "config.yaml"), header=describe_run())


def describe(cfg: DictConfig) -> dict[str, object]:
    """What a checkpoint stores about its run, sufficient for prediction: the recorded config and the class names."""
    text = (Path(cfg.train.output_dir) / "config.yaml").read_text()
    return {"config": text, "class_names": class_names(cfg) or []}


def class_names(cfg: DictConfig) -> list[str] | None:
    """The names of a settled config's classes; None where its data does not say."""
    names = (cfg.get("data") or {}).get("class_names")
    return None if names is None else [str(name) for name in names]


def describe_run() -> str:
    """The command, the versions and the git state of a run, one per line."""
    versions = [f"sqr {sqr.__version__}"]
    versions += [f"{name} {metadata.version(name)}" for name in ("torch", "torchvision")]
    versions += [f"detectron2 {detectron2.__version__}", f"Python {platform.python_version()}"]
    return f"command: {command_line()}\nversions: {', '.join(versions)}\ngit: {git_state()}"


def describe_environment() -> str:
    """:func:`describe_run` and Detectron2's table of the machine and of everything installed."""
    return f"{describe_run()}\n\n{collect_env_info()}"


def git_state() -> str:
    """The commit of the package's checkout, followed by "with changes" if there are uncommitted ones."""
    folder = Path(sqr.__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"
