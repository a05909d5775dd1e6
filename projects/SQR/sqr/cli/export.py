"""The command line of ``tools/export.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UsageError, UserError, report_error
from ..export.program import OPSET, check_packages, export_onnx, export_program
from ..export.verification import SIZES, largest_difference, onnx_runner
from ..export.wrapper import OUTPUTS, DeployedDetector
from ..predictor import Predictor
from .model_choice import add_model_options, chosen_model

TOLERANCE = 1e-3
"""Largest difference of scores and normalised boxes that the check of an export lets pass."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for errors that the user can fix, 2 for options that make no sense)."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (UserError, ValueError, OSError) as error:
        return report_error(error)


def run(args: argparse.Namespace) -> int:
    """Export, then compare the file with the model."""
    suffix = args.output.suffix
    if suffix not in (".onnx", ".pt2"):
        raise UsageError(f"--output {args.output}: .onnx writes ONNX, .pt2 a torch.export program")
    if suffix == ".onnx":
        check_packages("onnx", "onnxscript", *(() if args.no_check else ("onnxruntime",)))
    if suffix == ".onnx" and args.device != "cpu":
        raise UsageError(f"--device {args.device}: ONNX is written on the CPU, and runs anywhere")
    config, weights = chosen_model(args)
    predictor = Predictor.from_config(config, weights, overrides=args.opts, device=args.device)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    height, width = args.size
    shape = {"batch": args.batch, "height": height, "width": width}
    options = {"outputs": args.outputs, "dynamic": not args.static, **shape}
    if suffix == ".onnx":
        export_onnx(predictor.model, args.output, metadata=_metadata(predictor, config), **options)
    else:
        program = export_program(predictor.model, reference=args.reference, **options)
        torch.export.save(program, args.output)
    axes = f"batch {args.batch}, {height} x {width}" if args.static else "dynamic batch, height and width"
    kind = f"ONNX opset {OPSET}" if suffix == ".onnx" else "torch.export program"
    print(f"{args.output}: {kind}, {axes}, outputs {', '.join(OUTPUTS[args.outputs])}")
    return 0 if args.no_check else _check(args, predictor, tuple(shape.values()))


def _check(args: argparse.Namespace, predictor: Predictor, traced: tuple[int, int, int]) -> int:
    """Run the file and the model on noise; the exit code."""
    if args.output.suffix == ".onnx":
        exported, by = onnx_runner(args.output), "onnxruntime"
    else:
        exported, by = torch.export.load(args.output).module(), "PyTorch"
    model = DeployedDetector(model=predictor.model, outputs=args.outputs)
    sizes = [traced] if args.static else [traced, *SIZES]
    difference = largest_difference(model, exported, sizes, device=predictor.model.device)
    shapes = ", ".join(f"{b} x 3 x {h} x {w}" for b, h, w in sizes)
    print(f"run by {by} on {shapes}: differs from the model by at most {difference:.1e}")
    if not difference <= TOLERANCE:
        print(f"error: {args.output} differs by more than {TOLERANCE:g} from the model", file=sys.stderr)
        return 1
    return 0


def _metadata(predictor: Predictor, config: str) -> dict[str, object]:
    return {
        "config": Path(config).name if Path(config).is_file() else config,
        "class_names": list(predictor.class_names),
        "input_format": predictor.model.input_format,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a detector as ONNX or a torch.export program.")
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx, or .pt2 for torch.export")
    add_model_options(parser)
    parser.add_argument(
        "--outputs", choices=tuple(OUTPUTS), default="detections",
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
    parser.add_argument("--device", default="cpu", help="where a torch.export program shall run")
    return parser
