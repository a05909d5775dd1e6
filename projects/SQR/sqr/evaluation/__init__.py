"""Stage-wise evaluation: AP by stage, TP fading, FP exacerbation, the oracle, pictures and a report.

:func:`analyze` turns stored predictions into a :class:`StageAnalysis`; :class:`StageEvaluator` with
:class:`StageInference` gathers the predictions in Detectron2's evaluation loop. matplotlib and Pillow are imported
only by the functions that draw.
"""

from __future__ import annotations

from .analysis import StageAnalysis, analyze
from .coco_evaluator import BoxEvaluator, evaluate_boxes
from .comparison import compare, format_comparison
from .evaluator import StageEvaluator, StageInference
from .figures import write_figures
from .inference import analyze_model
from .report import write_report
from .stage_strip import draw_stage_strip
from .storage import from_coco_results, load_predictions, save_predictions
from .table_output import format_summary
from .tables import DetectionTable, StagePredictions

__all__ = [
    "BoxEvaluator",
    "DetectionTable",
    "StageAnalysis",
    "StageEvaluator",
    "StageInference",
    "StagePredictions",
    "analyze",
    "analyze_model",
    "compare",
    "draw_stage_strip",
    "evaluate_boxes",
    "format_comparison",
    "format_summary",
    "from_coco_results",
    "load_predictions",
    "save_predictions",
    "write_figures",
    "write_report",
]
