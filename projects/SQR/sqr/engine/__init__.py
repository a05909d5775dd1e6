"""Training engine: strict configs, a training loop that resumes exactly, weights of any origin."""

from .checkpointer import Checkpointer
from .command_line import run_command
from .config import check_calls, find_config, load_config, name_zoo_checkpoint, save_config
from .distributed import create_ddp_model, resolve_device, unwrap
from .errors import TrainingInterrupted, UsageError, UserError, as_user_error
from .model_weights import load_model_weights
from .optim import get_param_groups, step_schedule
from .overrides import apply_overrides
from .run import build_model, build_trainer, evaluate, run_eval_only, train
from .startup import setup_run
from .train_loader import TrainLoader, build_train_loader
from .trainer import Trainer, TrainingStopped
from .writers import ConsoleWriter, default_writers, write_results

__all__ = [
    "Checkpointer",
    "ConsoleWriter",
    "TrainLoader",
    "Trainer",
    "TrainingInterrupted",
    "TrainingStopped",
    "UsageError",
    "UserError",
    "apply_overrides",
    "as_user_error",
    "build_model",
    "build_train_loader",
    "build_trainer",
    "check_calls",
    "create_ddp_model",
    "default_writers",
    "evaluate",
    "find_config",
    "get_param_groups",
    "load_config",
    "load_model_weights",
    "name_zoo_checkpoint",
    "resolve_device",
    "run_command",
    "run_eval_only",
    "save_config",
    "setup_run",
    "step_schedule",
    "train",
    "unwrap",
    "write_results",
]
