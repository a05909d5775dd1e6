"""``sqr convert`` and ``tools/convert_checkpoint.py``: checkpoints between layouts."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from ..checkpoint import LAYOUTS, NATIVE, convert, convert_back, get_layout
from ..checkpoint.conversion import num_stages
from ..checkpoint.files import read_weights, write_weights
from ..checkpoint.loading import place_weights
from ..checkpoint.shrink import last_stage_alone, looped_config, trains_the_loop
from ..config import editable, load_run_config, save_config
from ..engine import build_model
from ..engine.startup import class_names
from ..errors import UserError, as_user_error, report_error
from ..recollection import Plan
from .options import add_trust_option

_MEGABYTE = 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 for an error that the user can fix, which is one line on stderr)."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        return report_error(error)
    return 0


def run_convert(args: argparse.Namespace) -> None:
    """Published names to this package's; with a config, exactly the tensors of its model, class heads fitted."""
    converted, names = _native_weights(args.input, args.layout)
    if args.config_file:
        cfg = _config(args.config_file)
        model = build_model(cfg)
        report = place_weights(
            model,
            converted,
            name=args.input,
            hint=f"give weights of the model of {args.config_file}",
            file_classes=names,
            class_names=class_names(cfg),
        )
        print("\n".join(report.lines()) or f"every tensor of the model of {args.config_file} is there")
        state = model.state_dict()
        converted = {key: state[key] for key in report.loaded}
        names = class_names(cfg) or names
    _write(args.output, converted, class_names=names)


def run_back(args: argparse.Namespace) -> None:
    """This package's names to a published layout's, in the outer dictionary of that layout's own files."""
    weights = read_weights(args.input).tensors
    with as_user_error(ValueError, prefix=f"{args.input}: "):
        published = convert_back(weights, args.layout)
        layout = get_layout(args.layout)
    print(f"{layout.name} ({layout.source}): {len(published)} tensors of {len(weights)}")
    _write(args.output, published, nesting=layout.nesting)


def run_shrink(args: argparse.Namespace) -> None:
    """Keep only the last stage, and write a config (OUT with .yaml) that runs it in a loop."""
    weights, _ = _native_weights(args.input, None)
    cfg = _config(_config_of(args))
    before = num_stages(weights)
    with as_user_error(ValueError, prefix=f"{args.input}: "):
        kept = last_stage_alone(weights)
        plan = Plan.from_spec(cfg.model.decoder.plan, before)
        cfg = looped_config(editable(cfg), args.times or before)
    output = Path(args.output)
    cfg.train.init_checkpoint = str(output)
    cfg.train.output_dir = f"{cfg.train.output_dir}_looped"
    model = build_model(cfg)
    place_weights(model, kept, name=args.input, hint="give the config it was trained with", complete=True)
    if not trains_the_loop(plan):
        print(
            "note: only the plan dense_recurrent trains the last stage on the initial queries and on its own outputs; "
            f"this config's is {plan}, so expect the loop to fail"
        )
    _write(args.output, kept)
    config = output.with_suffix(".yaml")
    with as_user_error(OSError):
        save_config(cfg, str(config))
    print(f"{args.input}: {before} stages, {_count(weights)}, {_size(args.input)} with all else that is in the file")
    print(f"{args.output}: 1 stage, {_count(kept)}, {_size(args.output)}")
    print(f"{config}: runs it {cfg.model.decoder.inference_plan.times} times")


def _native_weights(path: str, layout: str | None) -> tuple[dict[str, Tensor], Sequence[str] | None]:
    """A file's weights under this package's names, and its classes' names if it says them; prints what was done."""
    weights = read_weights(path)
    with as_user_error(ValueError, prefix=f"{path}: "):
        converted, report = convert(weights.tensors, layout)
    print(report)
    if report.dropped:
        kinds = Counter(".".join(key.split(".")[-2:]) if key.endswith("tracked") else key for key in report.dropped)
        shown = [f"{kind} ({n})" if n > 1 else kind for kind, n in kinds.most_common(8)]
        print(f"left out, repeated or no weights: {', '.join(shown)}{', ...' if len(kinds) > 8 else ''}")
    return dict(converted), weights.class_names


def _config_of(args: argparse.Namespace) -> str:
    beside = Path(args.input).parent / "config.yaml"
    if args.config_file or not beside.is_file():
        return args.config_file  # an empty file is an error of load_config
    return str(beside)


def _config(name: str) -> DictConfig:
    return load_run_config(name, needs_data=False, device="cpu")


def _write(
    path: str,
    tensors: Mapping[str, Tensor],
    *,
    nesting: str = "model",
    class_names: Sequence[str] | None = None,
) -> None:
    write_weights(path, tensors, nesting=nesting, class_names=class_names)
    print(f"wrote {path}")


def _count(weights: Mapping[str, Tensor]) -> str:
    """Count numbers in different storages: shared modules count once."""
    storages = {tensor.data_ptr(): tensor.numel() for tensor in weights.values()}
    return f"{sum(storages.values()) / 1e6:.1f} M numbers"


def _size(path: str) -> str:
    return f"{Path(path).stat().st_size / _MEGABYTE:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(layout.name for layout in LAYOUTS)
    parser = argparse.ArgumentParser(description=f"Published checkpoints in, ours out, and back. Layouts: {names}.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("convert", run_convert, "a published checkpoint to this package's names"),
        ("back", run_back, "this package's checkpoint to a published layout"),
        ("shrink", run_shrink, "keep the last decoder stage alone, and write the config that loops it"),
    ):
        command = commands.add_parser(name, help=text, description=run.__doc__)
        command.add_argument("input", metavar="IN")
        command.add_argument("output", metavar="OUT")
        add_trust_option(command)
        command.set_defaults(run=run)
        if name == "convert":
            command.add_argument("--layout", help=f"recognised from the keys if not given; {NATIVE} is this package's")
            command.add_argument("--config-file", help="check against this config's model and fit its class heads")
        elif name == "back":
            command.add_argument("--layout", required=True)
        else:
            command.add_argument("--config-file", default="", help="config.yaml beside IN if not given")
            command.add_argument("--times", type=int, help="runs of the stage; as many as there were stages by default")
    return parser
