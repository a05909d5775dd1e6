"""Will it fit? The peak memory of training, said before training: ``benchmark.py memory``.

No data is read and no step is run. The padded batch is the largest that the config's augmentation can make, each plan
and each way to bound its memory is predicted from the sizes of tensors alone (:mod:`.prediction`), and ``--budget``
asks for a recommendation. ``--measure`` runs the steps too, where they fit, and prints by how much the prediction errs.
``--params`` says how large the model and its checkpoints are, and what a forward pass computes.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from tabulate import tabulate

from ..decoder import RecollectingDecoder
from ..errors import UsageError, UserError, as_user_error
from ..recollection import Plan
from .executions import PLANS
from .model_size import print_sizes, sizes
from .peak import Measurement, measure
from .prediction import Prediction, predict
from .reporting import GIGABYTE, benchmark
from .subjects import add_overrides_argument, load_subject_config

HEADROOM = 0.1
"""Share of a budget that is left to what a prediction does not see: workspaces, fragments, the CUDA context."""

# the ways to bound the memory of recollected groups, as arguments of the decoder, mildest first
OPTIONS: tuple[dict[str, object], ...] = (
    {},
    {"checkpoint_groups": True},
    {"checkpoint_groups": True, "max_groups_per_pass": 4},
)
_UNITS = {"MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}
_CROWDED = 100  # objects: COCO's training images have up to 93


@dataclass(frozen=True)
class Row:
    """A plan and its options on a padded batch.

    Attributes:
        overrides: what to add to a command line for them.
        first: bytes of a step of one image.
        per_image: bytes that each further image adds.
    """

    plan: str
    options: dict[str, object]
    overrides: tuple[str, ...]
    first: Prediction
    per_image: int

    def peak(self, images: int) -> int:
        """Saved tensors grow with the batch, parameters and optimizer state do not."""
        return self.first.peak + (images - 1) * self.per_image

    def largest_batch(self, budget: float) -> int:
        """The most images whose peak stays within a budget in bytes; 0 where one image is too many."""
        return max(0, 1 + int((budget - self.first.peak) // max(self.per_image, 1)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--num-gpus", type=int, default=1, help="that share the config's total_batch_size")
    parser.add_argument("--batch", type=int, help="images a GPU, in the place of the config's total over --num-gpus")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the padded batch")
    parser.add_argument(
        "--objects", type=int, help="objects an image; by default 100, or as many as the model has queries"
    )
    parser.add_argument(
        "--plans", nargs="+", metavar="PLAN", help="by default the config's and the three of the papers"
    )
    parser.add_argument("--budget", help="memory of a GPU, such as 24GB: recommends what fits")
    parser.add_argument("--measure", action="store_true", help="also run the steps, and compare")
    parser.add_argument("--params", action="store_true", help="size of model and checkpoints, and operations, instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to measure on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Predict, and print a table and a recommendation."""
    cfg = load_subject_config(args)
    images = args.batch or batch_per_gpu(cfg, args.num_gpus)
    size = tuple(args.size) if args.size else worst_case_size(cfg, images)
    report = {"config_file": args.config_file, "images": images, "size": size}
    if args.params:
        report["params"] = sizes(cfg, size)
        print_sizes(report["params"])
        return report
    args.objects = args.objects or min(_CROWDED, cfg.model.query_generator.num_queries)
    print(f"{args.config_file}: batches of {images} images, padded to {size[0]}x{size[1]} at most")
    rows = [
        predict_row(cfg, plan, options, size=size, objects=args.objects)
        for plan in args.plans or dict.fromkeys([*PLANS, *filter(None, [own_plan(cfg)])])
        for options in available_options(plan, len_stages=cfg.model.decoder.stages.get("num_stages", 6))
    ]
    budget = parse_bytes(args.budget) if args.budget else None
    report["rows"] = [as_report(row, images, budget) for row in rows]
    if args.measure:
        for row, found in zip(rows, report["rows"], strict=True):
            found["measured"] = measure_row(row, args, size=size, images=images)
    print_rows(report["rows"], budget)
    if budget:
        report["recommendation"] = recommend(rows, own_plan(cfg), images=images, budget=budget)
        print(f"\n{report['recommendation']}")
    return report


def batch_per_gpu(cfg: DictConfig, num_gpus: int) -> int:
    """Images that one process trains on at a time.

    Raises:
        UsageError: the config's total cannot be shared evenly.
    """
    total = cfg.dataloader.train.total_batch_size
    if num_gpus < 1 or total % num_gpus:
        raise UsageError(f"--num-gpus {num_gpus}: dataloader.train.total_batch_size={total} must be a multiple of it")
    return total // num_gpus


def worst_case_size(cfg: DictConfig, images: int) -> tuple[int, int]:
    """The largest padded batch that the config's augmentation can make.

    One image is at most the largest ``min_size_train`` by ``max_size``. A batch is padded to its tallest and its widest
    image; unless wide and tall ones are kept apart, both can have ``max_size``.

    Raises:
        UsageError: the config has no ``data`` section with these sizes.
    """
    data = cfg.get("data") or {}
    if data.get("min_size_train") is None or data.get("max_size") is None:
        raise UsageError("the config has no data.min_size_train and data.max_size: give the padded batch with --size")
    shorter, longer = max(data["min_size_train"]), data["max_size"]
    mixed = images > 1 and not cfg.dataloader.train.get("aspect_ratio_grouping", False)
    multiple = max(1, cfg.model.get("size_divisibility", 0) or 0)
    height, width = (longer if mixed else min(shorter, longer)), longer
    return tuple(-(-side // multiple) * multiple for side in (height, width))


def available_options(plan: str, len_stages: int) -> list[dict[str, object]]:
    """The options that this package's decoder has; only the empty one where a plan recollects nothing."""
    known = inspect.signature(RecollectingDecoder.__init__).parameters
    if Plan.from_spec(plan, len_stages).total == len_stages:
        return [{}]
    return [options for options in OPTIONS if options.keys() <= known.keys()]


def own_plan(cfg: DictConfig) -> str | None:
    """The name of the config's plan; None for one that has no name."""
    plan = cfg.model.decoder.get("plan", "sequential")
    return plan if isinstance(plan, str) else None


def predict_row(cfg: DictConfig, plan: str, options: Mapping, *, size: tuple[int, int], objects: int) -> Row:
    """Predict one and two images; further ones add as much as the second."""
    new = {key: "" if key in cfg.model.decoder else "+" for key in options}
    overrides = [f"model.decoder.plan={plan}", *(f"{new[k]}model.decoder.{k}={v}" for k, v in options.items())]
    cfg = copy.deepcopy(cfg)
    cfg.model.decoder.plan = plan
    for key, value in options.items():
        cfg.model.decoder[key] = value
    with as_user_error(ValueError, prefix="model: "):
        one, two = (predict(cfg, size=size, images=n, objects=objects) for n in (1, 2))
    return Row(plan, dict(options), tuple(overrides), one, two.peak - one.peak)


def measure_row(row: Row, args: argparse.Namespace, *, size: tuple[int, int], images: int) -> int | None:
    """Bytes measured, or None where the step would not fit into this machine's memory."""
    if args.device == "cpu" and row.peak(images) > 0.9 * _available_memory():
        return None
    return measure(
        Measurement(
            config_file=args.config_file,
            overrides=[*args.overrides, *row.overrides],
            size=size,
            batch=images,
            objects=args.objects,
            device=args.device,
            threads=args.threads,
            seed=args.seed,
            plan=row.plan,
        )
    ).peak


def as_report(row: Row, images: int, budget: float | None) -> dict:
    report = {"plan": row.plan, "options": row.options, "predicted": row.peak(images), "per_image": row.per_image}
    report |= {key: value for key, value in asdict(row.first).items() if key != "peak"}
    if budget:
        report["largest_batch"] = row.largest_batch(budget * (1 - HEADROOM))
    return report


def recommend(rows: list[Row], plan: str | None, *, images: int, budget: float) -> str:
    """A sentence: whether the config's plan fits, with the mildest option that makes it fit, or the largest batch."""
    own = [row for row in rows if row.plan == plan] or rows
    room = budget * (1 - HEADROOM)
    asked = f"{budget / GIGABYTE:.0f} GB, {images} images a GPU"
    for row in own:
        if row.peak(images) <= room:
            return (
                f"{asked}: fits with {' '.join(row.overrides)} "
                f"({row.peak(images) / GIGABYTE:.1f} GB predicted, {HEADROOM:.0%} kept free)"
            )
    best = max(own, key=lambda row: row.largest_batch(room))
    most = best.largest_batch(room)
    if not most:
        return f"{asked}: does not fit, not even one image; lower data.max_size, or use a smaller backbone"
    return (
        f"{asked}: does not fit; at most {most} with {' '.join(best.overrides)}. Use more GPUs, or lower "
        f"dataloader.train.total_batch_size or data.max_size"
    )


def print_rows(rows: list[dict], budget: float | None) -> None:
    table = []
    for row in rows:
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        line = {"plan": row["plan"], "decoder options": options, "predicted, GB": row["predicted"] / GIGABYTE}
        line["a further image"] = row["per_image"] / GIGABYTE
        line["/ first row"] = row["predicted"] / rows[0]["predicted"]
        if "measured" in row:
            measured = row["measured"]
            line["measured, GB"] = measured / GIGABYTE if measured else "does not fit here"
            line["prediction errs by"] = f"{row['predicted'] / measured - 1:+.1%}" if measured else ""
        if budget:
            line["largest batch"] = row["largest_batch"]
        table.append(line)
    print(f"\n{tabulate(table, headers='keys', tablefmt='github', floatfmt='.2f')}", flush=True)
    first = rows[0]
    print(
        f"of it parameters {first['parameters'] / GIGABYTE:.2f}, gradients {first['gradients'] / GIGABYTE:.2f}, "
        f"optimizer {first['optimizer'] / GIGABYTE:.2f}"
    )


def parse_bytes(text: str) -> float:
    """``24GB`` -> 24e9.

    Raises:
        UsageError: not a number and a unit.
    """
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", text.strip())
    units = {name.lower(): value for name, value in _UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(f"--budget {text}: write a number and one of {', '.join(_UNITS)}, as in 24GB")
    return float(match[1]) * units[match[2].lower()]


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise UserError("/proc/meminfo has no MemAvailable: steps can be measured on Linux alone")
