"""Training engine: a training loop that resumes exactly, its hooks, data loader and writers."""

from .ema import ModelEMA
from .evaluation_hooks import BestCheckpoint, EarlyStopping, EvaluationHistory
from .optim import get_param_groups, step_schedule
from .run import build_model, build_optimizer, build_trainer, has_weights, load_model, run_eval_only, train
from .startup import setup_run
from .train_loader import TrainLoader, build_train_loader
from .trainer import Trainer, TrainingStopped
from .validation import evaluate
from .writers import ConsoleWriter, default_writers, write_results

__all__ = [
    "BestCheckpoint",
    "ConsoleWriter",
    "EarlyStopping",
    "EvaluationHistory",
    "ModelEMA",
    "TrainLoader",
    "Trainer",
    "TrainingStopped",
    "build_model",
    "build_optimizer",
    "build_train_loader",
    "build_trainer",
    "default_writers",
    "evaluate",
    "get_param_groups",
    "has_weights",
    "load_model",
    "run_eval_only",
    "setup_run",
    "step_schedule",
    "train",
    "write_results",
]
