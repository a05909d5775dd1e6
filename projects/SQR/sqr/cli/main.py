"""The ``sqr`` command: ``sqr COMMAND ...``. Lists and main help texts load neither PyTorch nor Detectron2."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata

from .options import PARSERS

# command: its module, arguments to prepend, and a line for the list
COMMANDS = {
    "train": ("train", (), "train a detector, or resume: sqr train NAME data.root=FOLDER train.output_dir=RUN"),
    "eval": ("train", ("--eval-only",), "evaluate: sqr eval NAME train.init_checkpoint=FILE, or sqr eval --run RUN"),
    "check": ("check", (), "report what is in a dataset and what is wrong with it: sqr check FOLDER"),
    "predict": ("predict", (), "detect on images, folders, videos or a camera: sqr predict photo.jpg --run RUN"),
    "analyze": ("analyze", (), "AP by stage, fading, exacerbation, an HTML report: sqr analyze --run RUN --output DIR"),
    "compare": ("analyze", ("compare",), "two analyses side by side: sqr compare A B --output DIR"),
    "export": ("export", (), "write ONNX or a torch.export program: sqr export --run RUN --output model.onnx"),
    "convert": ("convert", (), "published checkpoints to this package's names, and back"),
    "bench": ("benchmark", (), "speed and memory of operators, training, inference, loading"),
    "plan": ("plan", (), "print and draw recollection plans: sqr plan selective"),
    "study": ("study", (), "measure and report studies with seeds and intervals: sqr study list"),
    "configs": ("configs", (), "list the shipped configs, or copy one: sqr configs ls, sqr configs cp NAME FILE"),
    "demo": ("demo", (), "train a quick model and write its stage report"),
}


_LIGHT = ("check", "configs", "plan")  # run without Detectron2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, 2 for an unknown command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"sqr {metadata.version('detectron2-sqr')}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: sqr {name}: no such command; {hint}", file=sys.stderr)
        return 2
    module, front, _ = COMMANDS[name]
    sys.argv = [f"sqr {name}", *rest]  # what help texts and log files show
    if name in PARSERS and {"-h", "--help"} & set(rest):
        PARSERS[name]().print_help()
        return 0
    if module not in _LIGHT and importlib.util.find_spec("detectron2") is None:
        print(
            "error: Detectron2 is not installed, and is not on PyPI under its name: pip install --no-build-isolation "
            "'git+https://github.com/facebookresearch/detectron2.git'",
            file=sys.stderr,
        )
        return 1
    return importlib.import_module(f"{__package__}.{module}").main([*front, *rest])


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: sqr COMMAND ...", "", "Train DETR-family detectors with Selective Query Recollection.", "", *lines]
        + ["", "sqr COMMAND --help describes a command's options."]
    )
