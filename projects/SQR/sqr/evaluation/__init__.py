"""Stage-wise evaluation: AP by stage, TP fading, FP exacerbation, the oracle, pictures and a report."""

from __future__ import annotations

from .analysis import StageAnalysis, analyze
from .evaluator import StageEvaluator, StageInference
from .tables import DetectionTable, StagePredictions

__all__ = [
    "DetectionTable",
    "StageAnalysis",
    "StageEvaluator",
    "StageInference",
    "StagePredictions",
    "analyze",
]
