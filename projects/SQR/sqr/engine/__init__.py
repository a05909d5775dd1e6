"""Training engine: strict configs, a training loop that resumes exactly, weights of any origin."""

from ..errors import TrainingInterrupted, UsageError, UserError, as_user_error
from .checkpointer import Checkpointer
from .command_line import run_command
from .config import check_calls, find_config, load_config, name_zoo_checkpoint, save_config
from .distributed import create_ddp_model, resolve_device, unwrap
from .ema import ModelEMA
from .evaluation_hooks import BestCheckpoint, EarlyStopping, EvaluationHistory
from .model_weights import load_model_weights
from .optim import get_param_groups, step_schedule
from .overrides import apply_overrides
from .recipe import learning_rate_advice, settle_max_iter
from .run import build_model, build_trainer, run_eval_only, train
from .startup import setup_run
from .train_loader import TrainLoader, build_train_loader
from .trainer import Trainer, TrainingStopped
from .validation import evaluate
from .writers import ConsoleWriter, default_writers, write_results

__all__ = [
    "BestCheckpoint",
    "Checkpointer",
    "ConsoleWriter",
    "EarlyStopping",
    "EvaluationHistory",
    "ModelEMA",
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
    "learning_rate_advice",
    "load_config",
    "load_model_weights",
    "name_zoo_checkpoint",
    "resolve_device",
    "run_command",
    "run_eval_only",
    "save_config",
    "settle_max_iter",
    "setup_run",
    "step_schedule",
    "train",
    "unwrap",
    "write_results",
]
