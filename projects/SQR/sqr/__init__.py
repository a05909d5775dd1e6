"""Selective Query Recollection for query-based object detectors, on Detectron2."""

__version__ = "0.1.0"

__all__ = ["Predictor"]


def __getattr__(name: str):
    """``sqr.Predictor``, imported when it is asked for, so that ``import sqr`` stays light."""
    if name == "Predictor":
        from .predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'sqr' has no attribute {name!r}")
