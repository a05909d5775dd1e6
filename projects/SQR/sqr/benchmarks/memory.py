"""Will it fit? The peak memory of training, said before training: ``benchmark.py memory``.

No data is read and no arithmetic is done. The padded batch is the largest that the config's augmentation can make, each
plan and each way to save memory is predicted from the sizes of tensors alone (:mod:`.prediction`), and ``--budget``
asks for a recommendation. Predictions are for a GPU, none of which has confirmed them, or with ``--for cpu`` for a CPU.
``--measure`` also runs the steps, where they fit, and prints by how much the prediction errs. ``--params`` says how
large the model and its checkpoints are, and what a forward pass computes.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig
from tabulate import tabulate

from ..errors import UsageError, UserError, as_user_error
from .executions import PLANS
from .fitting import (
    HEADROOM,
    PlanSpec,
    Row,
    most_objects,
    own_parts,
    own_plan,
    parse_bytes,
    plan_of,
    plan_text,
    predict_row,
    recommend,
    settings,
)
from .model_size import print_sizes, sizes
from .peak import DoesNotFit, Measurement, measure
from .prediction import DEVICES, Prediction, Rehearsal
from .reporting import GIGABYTE, benchmark
from .subjects import add_overrides_argument, load_subject_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--num-gpus", type=int, default=1, help="that share the config's total_batch_size")
    parser.add_argument("--batch", type=int, help="images a GPU, in the place of the config's total over --num-gpus")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the padded batch")
    parser.add_argument("--objects", type=int, help="objects an image; by default 100, or as many as can be matched")
    parser.add_argument(
        "--plans", nargs="+", metavar="PLAN", help="by default the config's and the three of the papers"
    )
    parser.add_argument("--budget", help="memory of a GPU, such as 24GB: recommends what fits")
    parser.add_argument(
        "--for",
        dest="target",
        choices=DEVICES,
        help="the device to predict for, which need not be there; by default cuda, with --measure the measured one",
    )
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
    report = {"config_file": args.config_file}
    if args.params:
        size = tuple(args.size) if args.size else worst_case_size(cfg, 1)
        report |= {"size": size, "params": sizes(cfg, size)}
        print_sizes(report["params"])
        return report
    target = target_device(args)
    share = args.batch or batch_per_gpu(cfg, args.num_gpus)
    images = images_at_once(cfg, share)
    size = padded_size(args, cfg, images)
    args.objects = args.objects or most_objects(cfg)
    budget = parse_bytes(args.budget) if args.budget else None
    report |= {"predicted_for": target, "images": images, "size": size, "objects": args.objects}
    print(heading(args, target, images, own_parts(cfg), size))
    with as_user_error(ValueError, prefix="model: "):
        rehearsal = Rehearsal(cfg, device=target, processes=args.num_gpus)
    room = budget * (1 - HEADROOM) if budget else None
    rows = [
        predict_row(rehearsal, plan, setting, images=images, size=size, objects=args.objects, budget=room)
        for plan in args.plans or default_plans(cfg)
        for setting in settings(cfg, plan)
    ]
    report["rows"] = [as_report(row, images, room) for row in rows]
    if args.measure:
        for row, found in zip(rows, report["rows"], strict=True):
            found["measured"] = measure_row(row, args, size=size, images=images)
    print_rows(report["rows"], budget)
    print_constant_parts(rows[0].steps[images])
    if budget:
        report["recommendation"] = recommend(
            cfg,
            rehearsal,
            plan_to_recommend(cfg, args.plans),
            images=share,
            size_of=lambda n: padded_size(args, cfg, n),
            objects=args.objects,
            budget=budget,
        )
        print(f"\n{report['recommendation']}")
    return report


def target_device(args: argparse.Namespace) -> str:
    """The device to predict for: as asked, else the one to measure on, else a GPU.

    Raises:
        UsageError: it is to be compared with measurements of another.
    """
    measured = torch.device(args.device).type
    if args.measure and args.target not in (None, measured):
        raise UsageError(f"--measure runs on --device {args.device}, which --for {args.target} cannot be compared with")
    return args.target or (measured if args.measure else "cuda")


def heading(args: argparse.Namespace, target: str, images: int, parts: int, size: tuple[int, int]) -> str:
    device = "a CPU" if target == "cpu" else "a GPU (from its rules; no GPU has confirmed them)"
    batch = f"{images} images at once" + (f", {parts} times a step" if parts > 1 else "")
    return f"{args.config_file}: {batch}, padded to {size[0]}x{size[1]} at most; predicted for {device}"


def default_plans(cfg: DictConfig) -> list[PlanSpec]:
    """The papers' three and the config's own, each once."""
    found = {plan_of(cfg, spec): spec for spec in (*reversed(PLANS), own_plan(cfg))}
    return sorted(found.values(), key=lambda spec: plan_of(cfg, spec).total)


def plan_to_recommend(cfg: DictConfig, asked: list[str] | None) -> PlanSpec:
    """The config's, unless only others were asked for."""
    own = own_plan(cfg)
    if asked and all(plan_of(cfg, plan) != plan_of(cfg, own) for plan in asked):
        return asked[0]
    return own


def batch_per_gpu(cfg: DictConfig, num_gpus: int) -> int:
    """Images that one process trains on in a step.

    Raises:
        UsageError: the config's total cannot be shared evenly.
    """
    total = cfg.dataloader.train.total_batch_size
    if num_gpus < 1 or total % num_gpus:
        raise UsageError(f"--num-gpus {num_gpus}: dataloader.train.total_batch_size={total} must be a multiple of it")
    return total // num_gpus


def images_at_once(cfg: DictConfig, share: int) -> int:
    """Images of a part of a GPU's share of a batch.

    Raises:
        UsageError: it cannot be fed in that many parts.
    """
    parts = own_parts(cfg)
    if parts < 1 or share % parts:
        raise UsageError(f"train.accumulation_steps={parts} must divide the batch of a GPU, {share}")
    return share // parts


def padded_size(args: argparse.Namespace, cfg: DictConfig, images: int) -> tuple[int, int]:
    return tuple(args.size) if args.size else worst_case_size(cfg, images)


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


def measure_row(row: Row, args: argparse.Namespace, *, size: tuple[int, int], images: int) -> int | None:
    """Bytes measured, or None where the step does not fit into this machine's memory."""
    gc.collect()
    if row.steps[images].of_step > 0.9 * available_memory(args.device):
        return None
    try:
        return measure(
            Measurement.of(
                args,
                overrides=[*args.overrides, f"train.amp.enabled={row.setting.amp}"],
                size=size,
                batch=images,
                plan=row.plan,
                execution=row.setting.execution,
            )
        ).peak
    except DoesNotFit:
        return None


def available_memory(device: str) -> int:
    """Bytes that nobody uses."""
    if device != "cpu":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(torch.device(device))[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise UserError("/proc/meminfo has no MemAvailable: steps can be measured on Linux alone")


def as_report(row: Row, images: int, room: float | None) -> dict:
    report = {"plan": plan_text(row.plan), "setting": str(row.setting), "options": dict(row.setting.options)}
    found = asdict(row.steps[images])
    report |= {"amp": row.setting.amp, "predicted": found.pop("peak"), "per_image": int(row.per_image), **found}
    if room:
        report["largest_batch"] = row.largest_batch(room)
    return report


def print_rows(rows: list[dict], budget: float | None) -> None:
    table = []
    for row in rows:
        line = {"plan": row["plan"], "setting": row["setting"], "predicted, GB": row["predicted"] / GIGABYTE}
        line["a further image"] = row["per_image"] / GIGABYTE
        line["/ first row"] = row["predicted"] / rows[0]["predicted"]
        if "measured" in row:
            measured, predicted = row["measured"], row["predicted"] - row["average"] - row["buckets"]
            line["measured, GB"] = measured / GIGABYTE if measured else "does not fit here"
            line["prediction errs by"] = f"{predicted / measured - 1:+.1%}" if measured else ""
        if budget:
            line["most images at once"] = row["largest_batch"]
        table.append(line)
    print(f"\n{tabulate(table, headers='keys', tablefmt='github', floatfmt='.2f')}", flush=True)


def print_constant_parts(found: Prediction) -> None:
    """What every row contains whatever the batch."""
    parts = {"parameters": found.parameters, "optimizer": found.optimizer}
    parts |= {"moving average": found.average, "DistributedDataParallel's buckets": found.buckets}
    listed = ", ".join(f"{name} {size / GIGABYTE:.2f}" for name, size in parts.items() if size)
    print(f"of it {listed} GB; gradients, {found.gradients / GIGABYTE:.2f} GB, come as activations go")
