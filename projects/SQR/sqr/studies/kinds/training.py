"""A full training in a separate process, followed by the stage analysis of its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ...config import load_run_config
from ...engine import load_model
from ...errors import UserError
from ..definition import Cell
from ..results import Context, Measurement, load_result, measurement_of, result_path
from .common import analyze_stages, filled, take

_TRAIN = "import sys; from sqr.cli.train import main; sys.exit(main())"
_TIMES = "study_times.json"


class NotReadyError(Exception):
    """A cell needs the result of another cell first."""


def measure_training(cell: Cell, context: Context) -> Measurement:
    """Train, resuming an interrupted measurement, and analyse.

    Options: ``config`` by dataset; ``iterations``; ``overrides``; ``stretch``, two arms: the iterations are multiplied
    by the ratio of their processor times per iteration, measured with the same seed; ``weights_of``, an arm whose
    weights are evaluated with this arm's overrides, without another training.
    """
    config, iterations, overrides, stretch, weights_of = take(
        cell.options, ("config", "iterations"), ("overrides", "stretch", "weights_of")
    )
    config = config[cell.dataset]
    if weights_of:
        return _evaluate_again(cell, context, config, filled(overrides, context.data), weights_of)
    if stretch:
        iterations = round(iterations * _time_ratio(cell, context, *stretch))
    output = _output(cell, context)
    settings = [*filled(overrides, context.data), f"train.seed={cell.seed}", f"train.max_iter={iterations}"]
    command = ["--config-file", config, "--resume", *settings, f"train.output_dir={output}"]
    seconds, memory = _train(command, output)
    cfg = load_run_config(config, settings, init_checkpoint=str(output / "model_final.pth"))
    model = load_model(cfg).eval()
    details = {
        "train_cpu_seconds": seconds, "iterations": iterations, "peak_memory": memory,
        "sets": model.decoder.plan.total, "overrides": list(overrides or ()),
    }  # fmt: skip
    return measurement_of(analyze_stages(cfg, model), details=details, series=_curve(output, seconds, iterations))


def _evaluate_again(cell: Cell, context: Context, config: str, overrides: list[str], arm: str) -> Measurement:
    weights = _output(replace(cell, arm=arm), context) / "model_final.pth"
    if not weights.is_file():
        raise NotReadyError(f"{cell.key} needs {weights}, which the arm {arm!r} trains")
    cfg = load_run_config(config, overrides, init_checkpoint=str(weights))
    return measurement_of(analyze_stages(cfg, load_model(cfg).eval()), details={"weights_of": arm})


def _output(cell: Cell, context: Context) -> Path:
    return (context.work / cell.study.name / cell.key).resolve()


def _train(command: list[str], output: Path) -> tuple[float, int]:
    """Processor seconds and peak memory of all processes of this training, including resumed ones."""
    times = output / _TIMES
    seconds, memory = json.loads(times.read_text()) if times.is_file() else (0.0, 0)
    if not (output / "model_final.pth").is_file():
        output.mkdir(parents=True, exist_ok=True)
        with open(output / "study.log", "ab") as log:
            process = subprocess.Popen([sys.executable, "-c", _TRAIN, *command], stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds, memory = seconds + usage.ru_utime + usage.ru_stime, max(memory, usage.ru_maxrss * 1024)
        times.write_text(json.dumps([seconds, memory]))
        if process.returncode:
            raise UserError(f"the training failed with exit code {process.returncode}; see {output / 'study.log'}")
    return seconds, memory


def _time_ratio(cell: Cell, context: Context, longer: str, shorter: str) -> float:
    rates = []
    for arm in (longer, shorter):
        path = result_path(replace(cell, arm=arm), context.results)
        if not path.is_file():
            raise NotReadyError(f"{cell.key} needs the result of {arm}")
        details = load_result(path).measurement.details
        rates.append(details["train_cpu_seconds"] / details["iterations"])
    return rates[0] / rates[1]


def _curve(output: Path, seconds: float, iterations: int) -> dict[str, list[float]]:
    """AP against iterations, and against proportional processor seconds."""
    found: dict[int, float] = {}
    for line in (output / "metrics.json").read_text().splitlines():
        values = json.loads(line)
        if values.get("bbox/AP") is not None and "iteration" in values:
            found[int(values["iteration"])] = float(values["bbox/AP"])
    steps = sorted(found)
    return {
        "iteration": [float(step) for step in steps],
        "cpu_seconds": [seconds * step / iterations for step in steps],
        "AP": [found[step] for step in steps],
    }
