"""Configs: found by name, overridden strictly, checked, and settled once for a run."""

from .loading import check_calls, editable, find_config, load_config, name_zoo_checkpoint, save_config
from .overrides import apply_overrides
from .settling import default_device, learning_rate_advice, load_run_config, settled_max_iter
from .trust import allow_targets

__all__ = [
    "allow_targets",
    "apply_overrides",
    "check_calls",
    "default_device",
    "editable",
    "find_config",
    "learning_rate_advice",
    "load_config",
    "load_run_config",
    "name_zoo_checkpoint",
    "save_config",
    "settled_max_iter",
]
