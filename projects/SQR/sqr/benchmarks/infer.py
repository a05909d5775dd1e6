"""Inference against Hugging Face ``transformers`` with the same weights: ``benchmark.py infer``.

``transformers``' model is built with random weights, they are converted and loaded into this package's model, and both
run on the same normalised images with the same number of threads. Their outputs are compared first, on padded images
too. "images to detections" is this package's whole call, which also normalises, pads and selects.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from tabulate import tabulate
from torch import Tensor, nn

from .. import checkpoint
from ..errors import UsageError, UserError, as_user_error
from .ops import describe_machine
from .other_models import counterpart, run_counterpart
from .subjects import add_overrides_argument, fill_zero_matrices, load_subject_config, random_batch, with_threads
from .timing import interleaved, least_disturbed

TOLERANCE = 1e-3
"""Largest absolute difference of a logit or a normalised box coordinate."""

OURS, THEIRS, WHOLE = "sqr", "transformers", "sqr, images to detections"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config of DETR or Deformable DETR")
    parser.add_argument("--sizes", nargs="+", default=["480x640"], metavar="HEIGHTxWIDTH")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU; one is measured in CPU time")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


@with_threads
@torch.inference_mode()
def run(args: argparse.Namespace) -> dict:
    """Compare, time every size and batch, print a table."""
    sizes = [parse_size(text) for text in args.sizes]
    cfg = load_subject_config(args)
    ours, theirs = build_pair(cfg, seed=args.seed)
    report = {"machine": describe_machine(args.device), "config_file": args.config_file, "threads": args.threads}
    report["clock"] = key = least_disturbed(args.device)
    report["largest_difference"] = compare(ours, theirs, padded_pair(sizes[0], args.seed))
    print(f"largest difference of the outputs, with padding: {report['largest_difference']:.1e}")
    report["results"] = []
    for size in sizes:
        for images in args.batches:
            batch = random_batch(size, images=images, objects=0, num_classes=ours.num_classes, seed=args.seed)
            compare(ours, theirs, batch)
            times = interleaved(calls(ours, theirs, batch), device=args.device, repeats=args.repeats)
            report["results"].append({"size": size, "images": images, "times": times})
    print_results(report["results"], key)
    return report


def build_pair(cfg: DictConfig, *, seed: int) -> tuple[nn.Module, nn.Module]:
    """This package's model and ``transformers``' with the same random weights, in evaluation mode.

    Raises:
        UserError: no counterpart, or its weights do not become those of the config's model.
    """
    torch.manual_seed(seed)
    theirs = counterpart(cfg)
    fill_zero_matrices(theirs)
    with as_user_error(ValueError, prefix="model: "):
        ours = instantiate(cfg.model).eval()
    with as_user_error(ValueError, RuntimeError, prefix="weights of transformers: "):
        weights, _ = checkpoint.convert(theirs.state_dict())
        ours.load_state_dict(weights)
    return ours.to(cfg.train.device), theirs.to(cfg.train.device)


def forward(model: nn.Module, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Last stage's logits and boxes of this package's model, as :func:`.other_models.run_counterpart`."""
    memory = model.encoder(model.backbone(images), mask)
    last = model.decoder(model.query_generator(memory).state, memory)[-1]
    return last.logits[:, 0], last.boxes[:, 0]


def calls(ours: nn.Module, theirs: nn.Module, batch: list[dict]) -> dict[str, Callable[[], object]]:
    images, mask = ours.preprocess(batch)
    return {
        OURS: lambda: forward(ours, images, mask),
        THEIRS: lambda: run_counterpart(theirs, images, mask),
        WHOLE: lambda: ours(batch),
    }


def compare(ours: nn.Module, theirs: nn.Module, batch: list[dict]) -> float:
    """The largest absolute difference of logits and normalised boxes.

    Raises:
        UserError: it is above ``TOLERANCE``.
    """
    images, mask = ours.preprocess(batch)
    pairs = zip(forward(ours, images, mask), run_counterpart(theirs, images, mask), strict=True)
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    if not difference <= TOLERANCE:
        raise UserError(f"the outputs differ by {difference:.1e}, more than {TOLERANCE}: not the same model")
    return difference


def padded_pair(size: tuple[int, int], seed: int) -> list[dict]:
    """Two images of which each is padded on another side."""
    height, width = size
    shapes = (height, 3 * width // 4), (3 * height // 4, width)
    return [random_batch(s, images=1, objects=0, num_classes=1, seed=seed + i)[0] for i, s in enumerate(shapes)]


def print_results(results: list[dict], key: str) -> None:
    rows = []
    for result in results:
        height, width = result["size"]
        for name, times in result["times"].items():
            rows.append(
                {
                    "size": f"{height}x{width}",
                    "images": result["images"],
                    "": name,
                    "median, ms": times[key],
                    "wall p90, ms": times["p90_ms"],
                    "images/s": 1e3 * result["images"] / times[key],
                    "transformers / it": result["times"][THEIRS][key] / times[key],
                }
            )
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"), flush=True)


def parse_size(text: str) -> tuple[int, int]:
    """``480x640`` -> ``(480, 640)``.

    Raises:
        UsageError: not two numbers.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UsageError(f"--sizes {text}: write height x width, as in 480x640")
    return int(match[1]), int(match[2])
