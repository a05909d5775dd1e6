"""Peak memory of training, predicted before training: ``benchmark.py memory``.

The padded batch is the largest that the config's augmentation can make. Each plan and each way to save memory is
predicted from the sizes of tensors (:mod:`.prediction`), and ``--budget`` asks for a recommendation. Predictions for a
GPU have not been confirmed on one. ``--measure`` also runs the steps that fit and prints the error of the prediction.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from ..errors import UsageError, UserError, as_user_error
from ..recollection import Plan
from .executions import EXECUTIONS, PLANS
from .peak import DoesNotFit, Measurement, measure
from .prediction import DEVICES, Prediction, Rehearsal
from .reporting import GIGABYTE, benchmark, print_table
from .subjects import add_overrides_argument, load_subject_config

HEADROOM = 0.1
"""Share of a budget left for what a prediction does not see: workspaces, fragmentation, the CUDA context."""

_UNITS = {"MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}
_FURTHER = 8  # images, to see what each adds
_CROWDED = 100  # objects: COCO's training images have up to 93


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, help="a config file, or a name of the model zoo")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs that share the config's total_batch_size")
    parser.add_argument("--batch", type=int, help="images per GPU, instead of the config's total over --num-gpus")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the padded batch")
    parser.add_argument("--objects", type=int, help="per image; by default 100, or as many as can be matched")
    parser.add_argument(
        "--plans", nargs="+", metavar="PLAN", help="by default the config's and the three of the papers"
    )
    parser.add_argument("--budget", help="memory of a GPU, such as 24GB: recommends settings that fit")
    parser.add_argument(
        "--for", dest="target", choices=DEVICES, help="device to predict for; by default cuda, or the measured one"
    )
    parser.add_argument("--measure", action="store_true", help="also run the steps, and compare")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to measure on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    add_overrides_argument(parser)


@dataclass(frozen=True)
class Setting:
    """A plan and options that save memory; an execution of None keeps the config's options."""

    plan: str
    execution: str | None = "folded"
    amp: bool = False
    parts: int = 1

    def overrides(self, cfg: DictConfig) -> list[str]:
        """What to add to a command line where the config differs."""
        decoder, changed = cfg.model.decoder, []
        if Plan.from_spec(_spec(self.plan), _stages(cfg)) != Plan.from_spec(_spec(_own_plan(cfg)), _stages(cfg)):
            changed.append(f"model.decoder.plan={self.plan}")
        for key, value in ({} if self.execution is None else EXECUTIONS[self.execution]).items():
            if decoder.get(key, EXECUTIONS["folded"][key]) != value:
                changed.append(
                    f"{'' if key in decoder else '+'}model.decoder.{key}={'null' if value is None else value}"
                )
        if self.amp != cfg.train.amp.enabled:
            changed.append(f"train.amp.enabled={self.amp}")
        if self.parts != _own_parts(cfg):
            changed.append(f"train.accumulation_steps={self.parts}")
        return changed

    def __str__(self) -> str:
        options = [] if self.execution in ("folded", None) else [self.execution]
        return " ".join((["amp"] if self.amp else []) + (["the config's options"] if not self.execution else options))


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Predict, and print a table and a recommendation."""
    cfg = load_subject_config(args)
    measured = torch.device(args.device).type
    if args.measure and args.target not in (None, measured):
        raise UsageError(f"--measure runs on --device {args.device}, which --for {args.target} cannot be compared with")
    target = args.target or (measured if args.measure else "cuda")
    share = args.batch or _batch_per_gpu(cfg, args.num_gpus)
    if share % _own_parts(cfg):
        raise UsageError(f"train.accumulation_steps={_own_parts(cfg)} must divide the batch of a GPU, {share}")
    images = share // _own_parts(cfg)
    budget = parse_bytes(args.budget) if args.budget else None
    objects = args.objects or most_objects(cfg)
    with as_user_error(ValueError, prefix="model: "):
        rehearsal = Rehearsal(cfg, device=target)
    predict = partial(_predict, rehearsal, cfg, args, objects)
    where = "CPU" if target == "cpu" else "GPU (not confirmed on one)"
    height, width = _padded_size(args, cfg, images)
    print(f"{args.config_file}: {images} images at once, padded to {height}x{width}; predicted for a {where}")

    report = {"predicted_for": target, "images": images, "size": (height, width), "objects": objects, "rows": []}
    plans = args.plans or list(dict.fromkeys([*PLANS, _own_plan(cfg)]))
    for setting in (s for plan in plans for s in settings(cfg, plan)):
        found, beside = predict(setting, images)
        per_image = (predict(setting, images + _FURTHER)[0].peak - found.peak) / _FURTHER
        row = {**asdict(setting), "setting": str(setting), **asdict(found), "beside": beside, "per_image": per_image}
        row["predicted"] = row.pop("peak") + beside
        if budget:
            room = budget * (1 - HEADROOM)
            row["largest_batch"] = max(0, images + int((room - row["predicted"]) // max(per_image, 1)))
        if args.measure:
            row["measured"] = _measure(setting, args, found, (height, width), images, objects)
        report["rows"].append(row)
    _print_rows(report["rows"])
    if budget:
        own = _own_plan(cfg)
        plan = own if own in plans else plans[0]
        report["recommendation"] = recommend(cfg, predict, plan, images=share, budget=budget)
        print(f"\n{report['recommendation']}")
    return report


def settings(cfg: DictConfig, plan: str) -> Iterator[Setting]:
    """The settings to predict for a plan, mildest first."""
    parts, amp = _own_parts(cfg), bool(cfg.train.amp.enabled)
    own = {key: cfg.model.decoder.get(key, value) for key, value in EXECUTIONS["folded"].items()}
    with as_user_error(ValueError):
        recollects = any(len(step.sources) > 1 for step in Plan.from_spec(_spec(plan), _stages(cfg)).steps)
    bounded = ["checkpoint", "checkpoint-4"] if recollects else []
    if all(own != EXECUTIONS[name] for name in ("folded", *bounded)):
        yield Setting(plan, None, amp, parts)
    yield Setting(plan, "folded", amp, parts)
    if not amp:
        yield Setting(plan, "folded", True, parts)
    for name in bounded:
        yield Setting(plan, name, amp, parts)
    if bounded and not amp:
        yield Setting(plan, bounded[-1], True, parts)


def recommend(cfg: DictConfig, predict: partial, plan: str, *, images: int, budget: float) -> str:
    """A sentence: the mildest setting that makes a plan fit, each tried with the batch at once, then in parts."""
    asked = f"{budget / GIGABYTE:.0f} GB, {images} images per GPU and step, plan {plan}"
    for mild in settings(cfg, plan):
        for parts in range(mild.parts, images + 1):
            if images % parts == 0:
                setting = replace(mild, parts=parts)
                found, beside = predict(setting, images // parts)
                if found.peak + beside <= budget * (1 - HEADROOM):
                    changes = shlex.join(setting.overrides(cfg))
                    size = f"{(found.peak + beside) / GIGABYTE:.1f} GB predicted, {HEADROOM:.0%} kept free"
                    return f"{asked}: fits {f'with {changes}' if changes else 'as it is'} ({size})"
    return f"{asked}: does not fit, even one image at a time; lower data.max_size or use a smaller backbone"


def _predict(
    rehearsal: Rehearsal, cfg: DictConfig, args: argparse.Namespace, objects: int, setting: Setting, images: int
) -> tuple[Prediction, int]:
    """The model's step, and the bytes beside it: the average of ``train.ema`` and DistributedDataParallel's buckets."""
    with as_user_error(ValueError, prefix="model: "):
        found = rehearsal.step(
            Plan.from_spec(_spec(setting.plan), _stages(cfg)),
            size=_padded_size(args, cfg, images),
            images=images,
            objects=objects,
            execution=setting.execution,
            amp=setting.amp,
            accumulating=setting.parts > 1,
        )
    average = found.parameters if (cfg.train.get("ema") or {}).get("enabled") else 0
    return found, average + (found.gradients if args.num_gpus > 1 else 0)


def _spec(plan: str) -> str | dict | list:
    """What a config or a command line calls a plan: a name, a mapping or a list."""
    return OmegaConf.to_container(OmegaConf.create(f"plan: {plan}"), resolve=True)["plan"]


def _own_plan(cfg: DictConfig) -> str:
    plan = cfg.model.decoder.get("plan", "sequential")
    plain = OmegaConf.to_container(plan, resolve=True) if OmegaConf.is_config(plan) else plan
    return plain if isinstance(plain, str) else re.sub(r'["\s]', "", json.dumps(plain)).replace(":", ": ")


def _own_parts(cfg: DictConfig) -> int:
    return int(cfg.train.get("accumulation_steps", 1))


def _stages(cfg: DictConfig) -> int:
    return cfg.model.decoder.stages.get("num_stages", 6)


def _batch_per_gpu(cfg: DictConfig, num_gpus: int) -> int:
    total = cfg.dataloader.train.total_batch_size
    if num_gpus < 1 or total % num_gpus:
        raise UsageError(f"--num-gpus {num_gpus}: dataloader.train.total_batch_size={total} must be a multiple of it")
    return total // num_gpus


def _padded_size(args: argparse.Namespace, cfg: DictConfig, images: int) -> tuple[int, int]:
    return tuple(args.size) if args.size else worst_case_size(cfg, images)


def worst_case_size(cfg: DictConfig, images: int) -> tuple[int, int]:
    """The largest padded batch that the config's augmentation can make.

    A batch is padded to its tallest and its widest image; unless wide and tall ones are kept apart, both can have
    ``max_size``.

    Raises:
        UsageError: the config has no ``data`` section with these sizes.
    """
    data = cfg.get("data") or {}
    if data.get("min_size_train") is None or data.get("max_size") is None:
        raise UsageError("the config has no data.min_size_train and data.max_size: give the padded batch with --size")
    shorter, longer = max(data["min_size_train"]), data["max_size"]
    mixed = images > 1 and not cfg.dataloader.train.get("aspect_ratio_grouping", False)
    multiple = max(1, cfg.model.get("size_divisibility", 0) or 0)
    return tuple(-(-side // multiple) * multiple for side in (longer if mixed else min(shorter, longer), longer))


def most_objects(cfg: DictConfig) -> int:
    """As many objects as a crowded image has, or as the model's smallest query set can be matched with."""
    queries = cfg.model.query_generator
    most, auxiliary = min(_CROWDED, queries.num_queries), queries.get("num_auxiliary", 0)
    return min(most, auxiliary // cfg.model.criterion.get("auxiliary_repeats", 6)) if auxiliary else most


def parse_bytes(text: str) -> float:
    """``24GB`` -> 24e9."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    units = {name.lower(): value for name, value in _UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(f"--budget {text}: write a number and one of {', '.join(_UNITS)}, as in 24GB")
    return float(match[1]) * units[match[2].lower()]


def _measure(
    setting: Setting, args: argparse.Namespace, found: Prediction, size: tuple[int, int], images: int, objects: int
) -> int | None:
    """Bytes measured, or None where the step does not fit into this machine's memory."""
    gc.collect()
    what = Measurement.of(
        args,
        overrides=[*args.overrides, f"train.amp.enabled={setting.amp}"],
        size=size,
        batch=images,
        objects=objects,
        plan=_spec(setting.plan),
        execution=setting.execution,
    )
    try:
        return measure(what).peak if found.peak < 0.9 * _available_memory(args.device) else None
    except DoesNotFit:
        return None


def _available_memory(device: str) -> int:
    if device != "cpu":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise UserError("/proc/meminfo has no MemAvailable: steps can be measured only on Linux")


def _print_rows(rows: list[dict]) -> None:
    table = []
    for row in rows:
        line = {"plan": row["plan"], "setting": row["setting"], "predicted, GB": row["predicted"] / GIGABYTE}
        line |= {
            "per further image": row["per_image"] / GIGABYTE,
            "/ first row": row["predicted"] / rows[0]["predicted"],
        }
        if "measured" in row:
            measured = row["measured"]
            line["measured, GB"] = measured / GIGABYTE if measured else "does not fit here"
            line["error"] = f"{(row['predicted'] - row['beside']) / measured - 1:+.1%}" if measured else ""
        if "largest_batch" in row:
            line["most images at once"] = row["largest_batch"]
        table.append(line)
    print_table("", table, digits=2)
    parts = {name: rows[0][name] for name in ("parameters", "optimizer", "gradients", "beside")}
    print("of it, GB: " + ", ".join(f"{name} {size / GIGABYTE:.2f}" for name, size in parts.items() if size))
