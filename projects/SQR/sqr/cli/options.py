"""The options of the commands that load PyTorch, in a separate module so that their ``--help`` does not."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DEFAULT_CONFIG = "quick/sqr_deformable_detr_shapes"
"""Whose trained weights come with the package."""

_ALLOWED = "SQR_ALLOW_TARGETS"  # sqr.config.trust reads it, in child processes too

_TRAIN = """Train, resume or evaluate a detector.

    sqr train quick/sqr_deformable_detr_shapes train.output_dir=output/sqr
    sqr train quick/sqr_deformable_detr_shapes train.output_dir=output/sqr --resume
    sqr eval --run output/sqr
    train_net.py --config-file NAME [--resume | --eval-only] [key=value ...]

A config is a file or a name that "sqr configs ls" lists. key=value overrides a key of it, +key=value adds one; a
misspelt key is an error. Options and overrides may stand in any order.
"""


def train_parser() -> argparse.ArgumentParser:
    """``sqr train``, ``sqr eval`` and ``train_net.py``."""
    parser = argparse.ArgumentParser(
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Often wanted: data.root=FOLDER, train.output_dir=DIR, train.max_iter=N, model.decoder.plan=selective, "
        "optimizer.lr=X,\ntrain.device=cpu, train.init_checkpoint=FILE. docs/configs.md describes the keys.",
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="the config, and overrides of its keys")
    parser.add_argument("--config-file", default="", metavar="CONFIG", help="the config, as an option")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint of train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train")
    parser.add_argument("--run", metavar="DIR", help="with --eval-only: output folder of the training to evaluate")
    parser.add_argument(
        "--weights",
        help="weights to start from or to evaluate; with --run a file in its folder; to evaluate a checkpoint of a "
        "training nothing else is needed",
    )
    add_trust_option(parser)
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs on this machine; on a CPU the processes")
    _add_machines(parser)
    return parser


def analysis_parser() -> argparse.ArgumentParser:
    """``sqr analyze``."""
    parser = argparse.ArgumentParser(
        description="Stage-wise analysis of a query-based detector. Other commands: compare, benchmark.",
    )
    parser.add_argument("--config-file", default="", help="a config file or a name of the model zoo")
    parser.add_argument("--run", metavar="DIR", help="output folder of a training, in place of a config")
    parser.add_argument(
        "--weights",
        help="checkpoint to analyze; with --run a file in it, the last one by default; that of a training needs no "
        "config",
    )
    parser.add_argument(
        "--from-predictions", nargs="+", default=[], metavar="PATH",
        help="a directory of predictions, or COCO result files, one per stage, first stage first",
    )  # fmt: skip
    parser.add_argument("--name", help="what to call the model in tables and the report")
    parser.add_argument(
        "--clip-boxes",
        action="store_true",
        help="clip boxes to the image before the rates, as the released code does for Deformable DETR",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    _add_machines(parser)
    add_trust_option(parser)
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    _add_analysis_options(parser)
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """``sqr compare``."""
    parser = argparse.ArgumentParser(description="Two runs side by side, from their stored predictions.")
    parser.add_argument("first", help="output directory of an analysis (with its predictions)")
    parser.add_argument("second", help="the other one")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call them")
    parser.add_argument("--resamples", type=int, default=200, help="bootstrap draws of the images (0: no intervals)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    _add_analysis_options(parser)
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """``sqr predict``."""
    parser = argparse.ArgumentParser(
        description="Detect on images, folders, videos or a camera; draw and store the detections."
    )
    parser.add_argument("inputs", nargs="*", metavar="PATH", help='images, videos, folders, patterns ("photos/*.jpg")')
    parser.add_argument(
        "--input", nargs="+", default=[], metavar="PATH", help="the same, as Detectron2's demo takes them"
    )
    parser.add_argument("--webcam", type=int, metavar="NUMBER", help="number of a camera, 0 for the first")
    _add_model_options(parser)
    parser.add_argument(
        "--output", type=Path, help="folder of the pictures; output/predictions, unless --json or --show"
    )
    parser.add_argument("--json", type=Path, help="file for the detections")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="lowest score of a detection; default 0.3")
    parser.add_argument("--stages", action="store_true", help="also draw the best queries in every decoder stage")
    parser.add_argument("--queries", type=int, default=3, help="queries to follow with --stages; default 3")
    parser.add_argument(
        "--show", action="store_true", help="show pictures in a window; any key continues, q ends a video"
    )
    parser.add_argument("--video-format", choices=("mp4", "avi"), default="mp4", help="of written videos")
    parser.add_argument("--max-frames", type=int, default=0, help="stop a video after so many frames")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; the first GPU if there is one")
    return parser


def export_parser() -> argparse.ArgumentParser:
    """``sqr export``."""
    parser = argparse.ArgumentParser(description="Write a detector as ONNX or a torch.export program.")
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx, or .pt2 for torch.export")
    _add_model_options(parser)
    parser.add_argument(
        "--outputs", choices=("detections", "pairs", "raw"), default="detections",
        help="detections: score, label and box in pixels of every query's best class; pairs: of the pairs of query and "
        "class that an evaluation sees; raw: logits and normalised boxes of every query",
    )  # fmt: skip
    parser.add_argument("--static", action="store_true", help="fix batch and size to those of --batch and --size")
    parser.add_argument("--batch", type=int, default=2, help="images to trace with; default 2")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"), help="of the images to trace with"
    )
    parser.add_argument(
        "--reference", action="store_true",
        help="write a program's sampling operators as grid_sample, so that it runs without this package (ONNX always)",
    )  # fmt: skip
    parser.add_argument("--no-check", action="store_true", help="do not run the file to compare it with the model")
    parser.add_argument("--device", default="cpu", help="where a torch.export program shall run; default cpu")
    return parser


PARSERS = {
    "train": train_parser,
    "eval": train_parser,
    "analyze": analysis_parser,
    "compare": compare_parser,
    "predict": predict_parser,
    "export": export_parser,
}


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", help=f"a config file or a name of the model zoo; {DEFAULT_CONFIG} where no model is named"
    )
    parser.add_argument("--run", metavar="DIR", help="output folder of a training, in place of a config")
    parser.add_argument(
        "--weights",
        help="checkpoint: a path, a URL, zoo://NAME, or zoo for the config's own, which is the default; with --run the "
        "name of a file in it, its last checkpoint by default; that of a training needs no more",
    )
    add_trust_option(parser)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="key=value", help="overrides of the config; given last"
    )


def _add_analysis_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, help="directory for everything that is written")
    parser.add_argument("--annotations", help="COCO annotation file, where the predictions do not know it")
    parser.add_argument("--images", help="folder of the images, for the report's galleries")
    parser.add_argument("--ious", type=float, nargs="+", default=[0.5, 0.75], help="IoU thresholds of the rates")
    parser.add_argument(
        "--epsilons", type=float, nargs="+", default=[0.01, 0.05, 0.1], help="margins of marginal cases"
    )
    parser.add_argument("--partial", action="store_true", help="evaluate on the predicted images only")
    parser.add_argument("--strips", type=int, default=6, help="images to draw stage strips of; needs the images")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")


def _add_machines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-machines", type=int, default=1, help="machines that run this command; default 1")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    address = f"tcp://127.0.0.1:{20000 + os.getpid() % 20000}"
    parser.add_argument("--dist-url", default=address, help="where the processes meet")


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-target``, which takes effect as soon as it is parsed."""
    parser.add_argument(
        "--allow-target", action=_AllowTarget, metavar="NAME",
        help="a package, module or function of yours that a YAML config may call; may be repeated",
    )  # fmt: skip


class _AllowTarget(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: str, option: str | None = None):
        os.environ[_ALLOWED] = ",".join(filter(None, [os.environ.get(_ALLOWED), values]))
        setattr(namespace, self.dest, values)
