"""How the cells of a study are measured: one function ``(cell, work folder, data folder) -> Measurement`` each."""

from .evaluation import measure_evaluation
from .screening import measure_screening
from .training import measure_training

KINDS = {
    "train": measure_training,
    "screen": measure_screening,
    "evaluate": measure_evaluation,
}
