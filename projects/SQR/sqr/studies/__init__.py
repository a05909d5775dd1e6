"""Studies: which arms, seeds and datasets are compared, measured cell by cell into committed results, and reported."""

from .definition import Cell, Study, find_studies, load_study
from .report import build_report, check_pages, update_pages
from .results import Result, load_results
from .runner import run_study

__all__ = [
    "Cell",
    "Result",
    "Study",
    "build_report",
    "check_pages",
    "find_studies",
    "load_results",
    "load_study",
    "run_study",
    "update_pages",
]
