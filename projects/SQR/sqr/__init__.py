"""Selective Query Recollection for query-based object detectors, on Detectron2."""

__version__ = "0.1.0"
