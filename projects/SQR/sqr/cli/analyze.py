"""The command line of ``tools/analyze_stages.py``."""

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

from ..config import add_trust_option, load_run_config
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
from ..files import write_json, write_text
from ..runs import run_files
from .launching import run_command

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for an error that the user can fix, 130 for an interruption)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {"compare": run_compare, "benchmark": run_benchmark}
    run = commands.get(argv[0]) if argv else None
    try:
        if run is not None:
            return run(argv[1:])
        args = _analysis_parser().parse_intermixed_args(argv)
        if args.run and not args.config_file:
            args.config_file, weights = run_files(args.run, args.weights)
            args.opts = [f"train.init_checkpoint={weights}", *args.opts]
            args.name = args.name or f"{Path(args.run).name} {Path(weights).name}"
        elif args.weights:
            args.opts = [f"train.init_checkpoint={args.weights}", *args.opts]
        if bool(args.config_file) == bool(args.from_predictions):
            raise ValueError("give either --run or --config-file (to run a model) or --from-predictions")
        return run_config(args) if args.config_file else run_predictions(args)
    except (ValueError, FileNotFoundError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_config(args: argparse.Namespace) -> int:
    """Run a model over its test data, in ``--num-gpus`` processes."""
    return run_command(analyze_config, args)


def analyze_config(args: argparse.Namespace) -> None:
    """What each process does for ``--config-file``."""
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
        publish(result, args.output, image_root=image_root, report=not args.no_report, strips=args.strips)
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
        paths: one directory of predictions (or an output directory that has one), or COCO result files, one a stage.
        annotations: COCO annotation file; what the directory's ``meta.json`` says when None.
        images: folder of the images, likewise.
        ious, epsilons: see :func:`~sqr.evaluation.analysis.analyze`.
        name: what to call the predictions.
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
        name: what tables and report call the model.

    Returns:
        The report's path; None on all but the main process.
    """
    result, _ = analyze_model(cfg, model, output_dir, source=name)
    return None if result is None else publish(result, output_dir, image_root=image_root_of(dataset_name_of(cfg)))


def publish(
    result: StageAnalysis, output: str | Path, *, image_root: str | None, report: bool = True, strips: int = 6
) -> Path | None:
    """Print the tables, draw the figures and stage strips, write the report; returns the report's path."""

    output = Path(output)
    print(format_summary(result.summary()))
    name = result.predictions.source or "model"
    write_figures({name: result}, output / "figures")
    if image_root:
        write_stage_strips(result, output / "figures", image_root=image_root, count=strips)
    print(f"\nNumbers:  {output / 'stage_analysis.json'}, {output / 'stage_analysis.csv'}")
    print(f"Figures:  {output / 'figures'}")
    if not report:
        return None
    path = write_report(output / "report.html", {name: result}, image_root=image_root)
    print(f"Report:   {path}")
    return path


def run_compare(argv: Sequence[str]) -> int:
    """``compare A B``: two runs side by side, from their stored predictions."""
    parser = argparse.ArgumentParser(description=run_compare.__doc__)
    parser.add_argument("first", help="output directory of an analysis (with its predictions)")
    parser.add_argument("second")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call them")
    parser.add_argument("--resamples", type=int, default=200, help="bootstrap draws of the images (0: no intervals)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    _add_common(parser)
    args = parser.parse_args(argv)

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
    write_figures(by_name, output / "figures")
    print(f"\nNumbers:  {output / 'comparison.json'}, {output / 'comparison.md'}\nFigures:  {output / 'figures'}")
    if not args.no_report:
        path = write_report(output / "report.html", by_name, image_root=roots[0] or roots[1], comparison=outcome)
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


def _analysis_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Stage-wise analysis of a query-based detector. Other commands: compare, benchmark.",
    )
    parser.add_argument("--config-file", default="", help="a config file or a name of the model zoo")
    parser.add_argument("--run", metavar="DIR", help="output folder of a training, in place of a config")
    parser.add_argument("--weights", help="checkpoint to analyze; with --run a file in it, the last one by default")
    parser.add_argument(
        "--from-predictions",
        nargs="+",
        default=[],
        metavar="PATH",
        help="a directory of predictions, or COCO result files, one a stage, first stage first",
    )
    parser.add_argument("--name", help="what to call the model in tables and the report")
    parser.add_argument(
        "--clip-boxes",
        action="store_true",
        help="clip boxes to the image before the rates, as the released code does for Deformable DETR",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{20000 + os.getpid() % 20000}")
    add_trust_option(parser)
    parser.add_argument("opts", nargs="*", help="overrides of the config, key=value")
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, help="directory for everything that is written")
    parser.add_argument("--annotations", help="COCO annotation file, where the predictions do not know it")
    parser.add_argument("--images", help="folder of the images, for the report's galleries")
    parser.add_argument("--ious", type=float, nargs="+", default=list(RATE_IOUS), help="IoU thresholds of the rates")
    parser.add_argument("--epsilons", type=float, nargs="+", default=list(EPSILONS), help="margins of marginal cases")
    parser.add_argument("--partial", action="store_true", help="evaluate on the predicted images only")
    parser.add_argument("--strips", type=int, default=6, help="images to draw stage strips of; needs the images")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")


def _annotation_file(path: str | None, source: str) -> str:
    if not path:
        raise ValueError(f"{source} does not say what it was predicted for: give --annotations FILE")
    if not Path(path).is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist: give --annotations FILE")
    return path


def image_root_of(dataset_name: str) -> str | None:
    """The folder of a registered dataset's images, if its metadata says so."""
    return getattr(MetadataCatalog.get(dataset_name), "image_root", None) or None


def _distinct(names: Sequence[str], fallback: Sequence[str]) -> tuple[str, str]:
    if len(set(names)) == len(names) and all(names):
        return tuple(names)
    return tuple(Path(f).name for f in fallback) if len({Path(f).name for f in fallback}) == 2 else ("A", "B")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
