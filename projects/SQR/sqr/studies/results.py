"""Result files: one JSON per cell, small enough to be committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation.analysis import StageAnalysis
from ..evaluation.average_precision import ClassCurve, mean_precision, precision_at_recalls
from ..files import write_text
from .definition import RESULTS, Cell, Study

FORMAT = "sqr-study-result"
RESAMPLES = 200
"""Bootstrap resamples of the images that each result holds the AP of; the same ones in all results of a dataset."""


@dataclass
class Measurement:
    """The measurement of a cell.

    Attributes:
        metrics: numbers by name, AP in percent.
        images: number of evaluated images.
        resampled: the main metric on each resample of the images.
        series: columns by name, such as AP by iteration.
        stages: results of the stage analysis, see :func:`stage_summary`.
        details: anything else the kind stores.
    """

    metrics: dict[str, float]
    images: int
    resampled: list[float]
    series: dict[str, list[float]] = field(default_factory=dict)
    stages: dict = field(default_factory=dict)
    details: dict = field(default_factory=dict)


@dataclass
class Result:
    """A measured cell and its provenance.

    Attributes:
        commit: of the code that measured it.
        machine: processor, threads, PyTorch.
        command: repeats the measurement.
        seconds, cpu_seconds: of the whole measurement, wall time (the machine may be shared) and processor time of
            all processes.
        peak_memory: bytes, resident, of the largest process.
    """

    study: str
    arm: str
    dataset: str
    seed: int
    commit: str
    machine: str
    command: str
    seconds: float
    cpu_seconds: float
    peak_memory: int
    measurement: Measurement

    @property
    def value(self) -> float:
        """AP in percent."""
        return self.measurement.metrics["AP"]


@dataclass(frozen=True)
class Context:
    """Folders: for files kept between calls, of the datasets, and of results."""

    work: Path
    data: Path
    results: Path


def result_path(cell: Cell, folder: str | Path = RESULTS) -> Path:
    """The path of a cell's result."""
    return Path(folder) / cell.study.name / f"{cell.key}.json"


def save_result(result: Result, path: Path) -> None:
    """Write a result file atomically."""
    content = {"format": FORMAT, "version": 1, **rounded(asdict(result))}
    lines = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        UserError: it is not one.
    """
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT or content.pop("version") != 1:
            raise ValueError("of another format")
        return Result(**{**content, "measurement": Measurement(**content["measurement"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result of a study: {error}") from error


def load_results(study: Study, folder: str | Path = RESULTS) -> dict[tuple[str, str, int], Result]:
    """The measured cells of a study by (arm, dataset, seed)."""
    found = {}
    for cell in study.cells():
        path = result_path(cell, folder)
        if path.is_file():
            found[cell.arm, cell.dataset, cell.seed] = load_result(path)
    return found


def image_weights(images: int) -> np.ndarray:
    """``(RESAMPLES, N)`` the count of each image in each resample; a function of ``N`` only."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(RESAMPLES)])


def resampled_precision(curves: list[ClassCurve], images: int) -> list[float]:
    """AP in percent on each resample of the images."""
    return [mean_precision(precision_at_recalls(curves, weights)) for weights in image_weights(images)]


def measurement_of(analysis: StageAnalysis, **more: object) -> Measurement:
    """The last stage's AP, its resamples and the stage analysis."""
    last, images = analysis.stages[-1], len(analysis.gt.image_ids)
    return Measurement(
        metrics={name: last[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
        images=images,
        resampled=resampled_precision(analysis.curves[-1], images),
        stages=stage_summary(analysis),
        **more,
    )


def stage_summary(analysis: StageAnalysis) -> dict:
    """The headline numbers of an analysis: AP by stage, and oracle and rates with their chance levels."""
    summary = analysis.summary()
    found: dict = {"AP": [stage["AP"] for stage in summary["stages"]]}
    if summary["oracle"] is not None:
        found["oracle"] = summary["oracle"]["AP"]
        found["oracle_by_chance"] = summary["oracle"].get("chance", {}).get("mean")
        found["oracle_chance_spread"] = summary["oracle"].get("chance", {}).get("spread")
    for rate in summary["rates"]:
        for name in ("fading", "exacerbation"):
            found[f"{name}@{rate['iou']:g}"] = rate[name]["rate"]
        found[f"fading_by_chance@{rate['iou']:g}"] = rate["fading"].get("chance", {}).get("mean")
    return found


def rounded(value: object, digits: int = 4) -> object:
    """Nested plain values with rounded numbers; NaN becomes None for JSON."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float):
        return None if value != value else round(value, digits)
    return value
