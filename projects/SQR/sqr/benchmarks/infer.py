"""Inference, also compared with Hugging Face ``transformers`` with the same weights: ``benchmark.py infer``.

The model of ``transformers`` is built with random weights, which are converted and loaded into this package's model.
Both run on the same normalised images with the same number of threads. Their outputs are compared first, also on padded
images. "images to detections" is this package's whole call, which also normalises, pads and selects. If
``transformers`` is not installed or lacks the detector, only this package's model is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from .. import checkpoint
from ..errors import UsageError, UserError, as_user_error
from .other_models import NoCounterpartError, counterpart, run_counterpart
from .reporting import benchmark, print_table
from .subjects import add_overrides_argument, fill_zero_matrices, load_subject_config, random_batch
from .timing import interleaved, least_disturbed

TOLERANCE = 1e-3
"""Largest absolute difference of a logit or a normalised box coordinate."""

OURS, THEIRS, WHOLE = "sqr", "transformers", "sqr, images to detections"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--sizes", nargs="+", default=["480x640"], metavar="HEIGHTxWIDTH")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU; one is measured in CPU time")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="also this package's model under autocast with bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


@benchmark
@torch.inference_mode()
def run(args: argparse.Namespace) -> dict:
    """Compare, time every size and batch, print a table."""
    sizes = [parse_size(text) for text in args.sizes]
    cfg = load_subject_config(args)
    ours, theirs, reason = build_pair(cfg, seed=args.seed)
    report = {"config_file": args.config_file, "threads": args.threads, "clock": least_disturbed(args.device)}
    report |= {"not_compared": reason, "largest_difference": None, "results": []}
    if theirs is not None:
        report["largest_difference"] = compare(ours, theirs, padded_pair(sizes[0], args.seed))
    for size in sizes:
        for images in args.batches:
            batch = random_batch(size, images=images, objects=0, num_classes=ours.num_classes, seed=args.seed)
            if theirs is not None:
                compare(ours, theirs, batch)
            variants = calls(ours, theirs, batch, bf16=args.bf16)
            times = interleaved(variants, device=args.device, repeats=args.repeats)
            report["results"].append({"size": size, "images": images, "times": times})
    print_results(report)
    return report


def build_pair(cfg: DictConfig, *, seed: int) -> tuple[nn.Module, nn.Module | None, str | None]:
    """This package's model and ``transformers``' with the same random weights, in evaluation mode.

    Returns:
        Both; or this package's, None, and the reason why there is no other.

    Raises:
        UserError: the converted weights are not those of the config's model.
    """
    torch.manual_seed(seed)
    with as_user_error(ValueError, prefix="model: "):
        ours = instantiate(cfg.model).eval().to(cfg.train.device)
    try:
        theirs = counterpart(cfg)
    except NoCounterpartError as reason:
        fill_zero_matrices(ours)
        return ours, None, str(reason)
    fill_zero_matrices(theirs)
    with as_user_error(ValueError, RuntimeError, prefix="weights of transformers: "):
        weights, _ = checkpoint.convert(theirs.state_dict())
        ours.load_state_dict(weights)
    return ours, theirs.to(cfg.train.device), None


def forward(model: nn.Module, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Last stage's logits and boxes of this package's model, as :func:`.other_models.run_counterpart`."""
    memory = model.encode_images(images, mask)
    last = model.decoder(model.query_generator(memory).state, memory)[-1]
    return last.logits[:, 0], last.boxes[:, 0]


def calls(
    ours: nn.Module, theirs: nn.Module | None, batch: list[dict], *, bf16: bool
) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    images, mask = ours.preprocess(batch)
    found = {OURS: lambda: forward(ours, images, mask), WHOLE: lambda: ours(batch)}

    def in_bf16(call: Callable[[], object]) -> Callable[[], object]:
        def autocast() -> object:
            with torch.autocast(images.device.type, torch.bfloat16):
                return call()

        return autocast

    if bf16:
        found |= {f"{name}, bf16": in_bf16(call) for name, call in found.items()}
    if theirs is not None:
        found[THEIRS] = lambda: run_counterpart(theirs, images, mask)
    return found


def compare(ours: nn.Module, theirs: nn.Module, batch: list[dict]) -> float:
    """The largest absolute difference of logits and normalised boxes.

    Raises:
        UserError: it is above ``TOLERANCE``.
    """
    images, mask = ours.preprocess(batch)
    with exact_float32():
        pairs = zip(forward(ours, images, mask), run_counterpart(theirs, images, mask), strict=True)
        difference = max(float((a - b).abs().max()) for a, b in pairs)
    if not difference <= TOLERANCE:
        raise UserError(f"the outputs differ by {difference:.1e}, more than {TOLERANCE}: not the same model")
    return difference


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Inside this context a GPU multiplies float32 in full precision, without TF32."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def padded_pair(size: tuple[int, int], seed: int) -> list[dict]:
    """Two images, each of which is padded on a different side."""
    height, width = size
    shapes = (height, 3 * width // 4), (3 * height // 4, width)
    return [random_batch(s, images=1, objects=0, num_classes=1, seed=seed + i)[0] for i, s in enumerate(shapes)]


def print_results(report: dict) -> None:
    """One row per size, batch and variant: latency, images per second, and the ratio to ``transformers``."""
    key, rows = report["clock"], []
    for result in report["results"]:
        height, width = result["size"]
        theirs = result["times"].get(THEIRS)
        for name, times in result["times"].items():
            rows.append(
                {
                    "size": f"{height}x{width}",
                    "images": result["images"],
                    "": name,
                    "latency, ms": times[key],
                    "wall p90, ms": times["p90_ms"],
                    "images/s": 1e3 * result["images"] / times[key],
                    f"{THEIRS} / it": theirs[key] / times[key] if theirs else None,
                }
            )
    if report["not_compared"]:
        print(report["not_compared"])
    else:
        print(f"largest difference of the outputs, with padding: {report['largest_difference']:.1e}")
    kind = "CPU time" if key == "cpu_ms" else "wall time"
    print_table(f"{report['config_file']}, {report['threads']} threads, medians, {kind}", rows, digits=2)


def parse_size(text: str) -> tuple[int, int]:
    """``480x640`` -> ``(480, 640)``.

    Raises:
        UsageError: not two numbers.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UsageError(f"--sizes {text}: write height x width, as in 480x640")
    return int(match[1]), int(match[2])
