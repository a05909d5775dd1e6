"""Selective Query Recollection for query-based object detectors, on Detectron2."""

import importlib

__version__ = "0.1.0"

# Imported when first asked for, so that ``import sqr`` stays light.
_API = {
    "Plan": "recollection",
    "Predictor": "predictor",
    "list_configs": "api",
    "train": "api",
}
_MODULES = ("checkpoint", "data", "engine", "evaluation", "export", "model_zoo", "ops", "recollection")

__all__ = ["Plan", "Predictor", "list_configs", "train"]


def __getattr__(name: str):
    if name in _API:
        return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'sqr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
