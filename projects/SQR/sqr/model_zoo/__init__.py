"""The model zoo, with Detectron2's four names, and what of it is trained."""

from .model_zoo import SCHEME, checkpoint_names, config_name, get, get_checkpoint_url, get_config, get_config_file

__all__ = ["SCHEME", "checkpoint_names", "config_name", "get", "get_checkpoint_url", "get_config", "get_config_file"]
