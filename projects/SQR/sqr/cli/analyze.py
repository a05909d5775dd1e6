"""``sqr analyze``, ``sqr compare`` and ``tools/analyze_stages.py``: stage-wise analysis and its report."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import nn

from ..config import load_run_config
from ..engine import has_weights, load_model
from ..engine.log_file import setup_logs
from ..errors import UserError, report_error
from ..evaluation import ground_truth, storage
from ..evaluation.analysis import EPSILONS, RATE_IOUS, StageAnalysis, analyze
from ..evaluation.comparison import compare, format_comparison
from ..evaluation.evaluator import save_analysis
from ..evaluation.figures import write_figures
from ..evaluation.inference import analyze_model, dataset_name_of
from ..evaluation.report import write_report
from ..evaluation.stage_strip import write_stage_strips
from ..evaluation.synthetic import synthetic_dataset, synthetic_predictions
from ..evaluation.table_output import format_summary
from ..files import read_rows, write_json, write_text
from .launching import run_command
from .model_choice import chosen_model
from .options import analysis_parser, compare_parser

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for an error that the user can fix, 130 for an interruption)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {"compare": run_compare, "benchmark": run_benchmark}
    run = commands.get(argv[0]) if argv else None
    try:
        if run is not None:
            return run(argv[1:])
        args = analysis_parser().parse_intermixed_args(argv)
        if bool(args.run or args.config_file or args.weights) == bool(args.from_predictions):
            raise ValueError("give either --run or --config-file or --weights (to run a model), or --from-predictions")
        if args.from_predictions:
            return run_predictions(args)
        if args.run or args.weights:
            args.name = args.name or Path(args.run or args.config_file or args.weights).stem
            args.config_file, weights = chosen_model(args)
            args.opts = [f"train.init_checkpoint={weights}", *args.opts]
        return run_config(args)
    except (ValueError, FileNotFoundError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_config(args: argparse.Namespace) -> int:
    """Run a model over its test data, in ``--num-gpus`` processes."""
    return run_command(analyze_config, args)


def analyze_config(args: argparse.Namespace) -> None:
    """The work of each process for ``--config-file``."""
    setup_logs(args.output)
    cfg = load_run_config(args.config_file, args.opts)
    if not has_weights(cfg):
        raise UserError("name the weights to analyze: train.init_checkpoint=PATH")
    model = load_model(cfg)
    result, interrupted = analyze_model(
        cfg, model, args.output, rate_ious=args.ious, epsilons=args.epsilons, clip_boxes=args.clip_boxes,
        source=args.name or Path(args.config_file).stem,
    )  # fmt: skip
    if result is not None:
        image_root = args.images or image_root_of(dataset_name_of(cfg))
        publish(
            result, args.output, image_root=image_root, metrics=metrics_of(cfg), report=not args.no_report,
            strips=args.strips,
        )  # fmt: skip
    if interrupted:
        raise KeyboardInterrupt


def run_predictions(args: argparse.Namespace) -> int:
    """Analyse stored predictions: a directory of an earlier run, or COCO result files."""
    result, image_root = load_and_analyze(
        args.from_predictions,
        annotations=args.annotations,
        images=args.images,
        ious=args.ious,
        epsilons=args.epsilons,
        name=args.name,
        partial=args.partial,
    )
    save_analysis(result, args.output)
    publish(result, args.output, image_root=image_root, report=not args.no_report, strips=args.strips)
    return 0


def load_and_analyze(
    paths: Sequence[str],
    *,
    annotations: str | None = None,
    images: str | None = None,
    ious: Sequence[float] = RATE_IOUS,
    epsilons: Sequence[float] = EPSILONS,
    name: str | None = None,
    partial: bool = False,
) -> tuple[StageAnalysis, str | None]:
    """Analyse predictions on disk.

    Args:
        paths: one directory of predictions (or an output directory that has one), or COCO result files, one per stage.
        annotations: COCO annotation file; by default that of the directory's ``meta.json``.
        images: folder of the images, likewise.
        ious, epsilons: see :func:`~sqr.evaluation.analysis.analyze`.
        name: of the predictions.
        partial: evaluate on the predicted images only.

    Returns:
        The analysis and the folder of the images, if known.

    Raises:
        ValueError: annotations are needed and not known.
    """
    meta: dict = {}
    if len(paths) == 1 and Path(paths[0]).is_dir():
        directory = Path(paths[0])
        if not (directory / "meta.json").exists() and (directory / "predictions").is_dir():
            directory = directory / "predictions"
        predictions, meta = storage.load_predictions(directory)
        coco = ground_truth.load_coco(_annotation_file(annotations or meta.get("json_file"), paths[0]))
    else:
        coco = ground_truth.load_coco(_annotation_file(annotations, paths[0]))
        predictions = storage.from_coco_results(paths, coco)
    predictions.source = name or predictions.source
    result = analyze(
        predictions, coco, rate_ious=ious, epsilons=epsilons, predicted_images_only=partial, progress=_progress
    )
    return result, images or meta.get("image_root") or None


def analyze_and_publish(
    cfg: DictConfig, model: nn.Module, output_dir: str | Path, *, name: str = "model"
) -> Path | None:
    """Analyze every stage of a model on its config's test data; print the tables and write figures and report.

    Args:
        cfg: a config that :func:`sqr.config.load_run_config` returned.
        model: with its weights.
        output_dir: gets ``predictions/``, ``stage_analysis.json``, ``stage_analysis.csv``, ``figures/`` and
            ``report.html``.
        name: of the model in tables and report.

    Returns:
        The report's path; None on all but the main process.
    """
    result, _ = analyze_model(cfg, model, output_dir, source=name)
    if result is None:
        return None
    return publish(result, output_dir, image_root=image_root_of(dataset_name_of(cfg)), metrics=metrics_of(cfg))


def publish(
    result: StageAnalysis,
    output: str | Path,
    *,
    image_root: str | None,
    metrics: str | Path | None = None,
    report: bool = True,
    strips: int = 6,
) -> Path | None:
    """Print the tables, draw the figures and stage strips, write the report; returns the report's path.

    ``metrics`` is the ``metrics.json`` of the training, whose curves are drawn if it exists.
    """
    output = Path(output)
    print(format_summary(result.summary()))
    name = result.predictions.source or "model"
    rows = read_rows(metrics) if metrics else ()
    pictures = write_figures({name: result}, output / "figures", metrics=rows)
    if image_root:
        write_stage_strips(result, output / "figures", image_root=image_root, count=strips)
    print(f"\nNumbers:  {output / 'stage_analysis.json'}, {output / 'stage_analysis.csv'}")
    print(f"Figures:  {output / 'figures'}")
    if not report:
        return None
    path = write_report(output / "report.html", {name: result}, image_root=image_root, pictures=pictures)
    print(f"Report:   {path}")
    return path


def run_compare(argv: Sequence[str]) -> int:
    """``compare A B``: two runs side by side, from their stored predictions."""
    args = compare_parser().parse_args(argv)
    results, roots = [], []
    for n, path in enumerate((args.first, args.second)):
        result, root = load_and_analyze(
            [path], annotations=args.annotations, images=args.images, ious=args.ious, epsilons=args.epsilons,
            name=args.names[n] if args.names else None, partial=args.partial,
        )  # fmt: skip
        results.append(result)
        roots.append(root)
    names = _distinct([r.predictions.source for r in results], (args.first, args.second))
    outcome = compare(*results, names=names, resamples=args.resamples, seed=args.seed, progress=_progress)
    output = Path(args.output)
    write_json(output / "comparison.json", outcome)
    table = format_comparison(outcome)
    write_text(output / "comparison.md", table + "\n")
    print(table)
    by_name = dict(zip(names, results, strict=True))
    pictures = write_figures(by_name, output / "figures")
    print(f"\nNumbers:  {output / 'comparison.json'}, {output / 'comparison.md'}\nFigures:  {output / 'figures'}")
    if not args.no_report:
        path = write_report(
            output / "report.html", by_name, image_root=roots[0] or roots[1], comparison=outcome, pictures=pictures
        )
        print(f"Report:   {path}")
    return 0


def run_benchmark(argv: Sequence[str]) -> int:
    """``benchmark``: time the analysis, after inference, on synthetic predictions of COCO's size, on one core."""
    parser = argparse.ArgumentParser(description=run_benchmark.__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--stages", type=int, default=6)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--classes", type=int, default=80)
    args = parser.parse_args(argv)

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data, rng = synthetic_dataset(num_images=args.images, num_classes=args.classes)
    predictions = synthetic_predictions(data, rng, num_stages=args.stages, num_queries=args.queries)
    coco = ground_truth.load_coco(data)
    wall, cpu = time.perf_counter(), time.process_time()
    result = analyze(predictions, coco, progress=_progress)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(format_summary(result.summary()))
    print(
        f"\n{args.images} images x {args.stages} stages x {args.queries} queries: "
        f"{cpu:.1f} s of processor time, {wall:.1f} s on the clock"
    )
    return 0


def _annotation_file(path: str | None, source: str) -> str:
    if not path:
        raise ValueError(f"{source} does not say what it was predicted for: give --annotations FILE")
    if not Path(path).is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist: give --annotations FILE")
    return path


def image_root_of(dataset_name: str) -> str | None:
    """The folder of a registered dataset's images, if its metadata says so."""
    return getattr(MetadataCatalog.get(dataset_name), "image_root", None) or None


def metrics_of(cfg: DictConfig) -> Path:
    """The ``metrics.json`` of the training of a config's weights, beside them."""
    return Path(cfg.train.init_checkpoint).parent / "metrics.json"


def _distinct(names: Sequence[str], fallback: Sequence[str]) -> tuple[str, str]:
    if len(set(names)) == len(names) and all(names):
        return tuple(names)
    return tuple(Path(f).name for f in fallback) if len({Path(f).name for f in fallback}) == 2 else ("A", "B")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
