"""The model zoo, with Detectron2's four function names, and the list of trained models."""

from ..catalog import SCHEME, checkpoint_names, config_name, config_names, get_checkpoint_url, get_config_file
from .model_zoo import get, get_config

__all__ = [
    "SCHEME",
    "checkpoint_names",
    "config_name",
    "config_names",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
]
