"""``sqr export`` and ``tools/export.py``: write ONNX or a torch.export program."""

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
from .model_choice import chosen_model
from .options import export_parser

TOLERANCE = 1e-3
"""Largest difference of scores and normalised boxes that the check of an export lets pass."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for errors that the user can fix, 2 for invalid options)."""
    args = export_parser().parse_args(argv)
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
    name = config if isinstance(config, str) else "its own config"
    _say(f"loading {weights} ({name})")
    predictor = Predictor.from_config(config, weights, overrides=args.opts, device=args.device)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    height, width = args.size
    shape = {"batch": args.batch, "height": height, "width": width}
    options = {"outputs": args.outputs, "dynamic": not args.static, **shape}
    axes = f"batch {args.batch}, {height} x {width}" if args.static else "dynamic batch, height and width"
    _say(f"tracing {args.batch} x 3 x {height} x {width}, {axes}; this takes from seconds to minutes")
    if suffix == ".onnx":
        export_onnx(predictor.model, args.output, metadata=_metadata(predictor, name), **options)
    else:
        program = export_program(predictor.model, reference=args.reference, **options)
        torch.export.save(program, args.output)
    kind = f"ONNX opset {OPSET}" if suffix == ".onnx" else "torch.export program"
    print(f"{args.output}: {kind}, {axes}, outputs {', '.join(OUTPUTS[args.outputs])}")
    return 0 if args.no_check else _check(args, predictor, tuple(shape.values()))


def _check(args: argparse.Namespace, predictor: Predictor, traced: tuple[int, int, int]) -> int:
    """Run the file and the model on noise; the exit code."""
    _say("checking: the file and the model, on noise")
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
    """Metadata that other programs need to prepare inputs and interpret outputs."""
    resizing = next((a for a in predictor.mapper.augmentations.augs if hasattr(a, "short_edge_length")), None)
    sizes = {} if resizing is None else {"min_size": resizing.short_edge_length[0], "max_size": resizing.max_size}
    model = predictor.model
    return {
        "config": Path(config).name if Path(config).is_file() else config,
        "class_names": list(predictor.class_names),
        "input_format": model.input_format,
        **sizes,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
    }


def _say(text: str) -> None:
    print(f"{text} ...", flush=True)
