"""Checks a detection dataset before training: what it contains, and everything that is wrong with it."""

from ..defects import KINDS, Defect
from .inspection import Inspection, inspect_dataset
from .report import report_dict, report_text

__all__ = ["KINDS", "Defect", "Inspection", "inspect_dataset", "report_dict", "report_text"]
