"""A model and a dataset small enough to train in a second: what the engine's tests run on."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.logger import setup_logger
from torch import nn

from sqr.cli import train
from sqr.config import allow_targets

allow_targets("engine_toys")  # YAML configs of the toys


def toy_dicts(size: int = 13) -> list[dict]:
    """Dataset dicts without files; wide and tall images mixed."""
    return [
        {"file_name": f"toy_{i}.png", "image_id": 100 + i, "width": 8 + 4 * (i % 3 == 0), "height": 10}
        for i in range(size)
    ]


class ToyMapper:
    """Random augmentation that draws from all three random generators."""

    def __call__(self, sample: dict) -> dict:
        image = torch.full((3, 8, 8), sample["image_id"] / 100)
        noise = np.random.rand() + random.random() + torch.rand(1).item()
        instances = Instances((sample["height"], sample["width"]))
        instances.gt_classes = torch.zeros(1 + sample["image_id"] % 3, dtype=torch.int64)
        return {**sample, "image": image + noise, "instances": instances}


class BrokenMapper(ToyMapper):
    def __call__(self, sample: dict) -> dict:
        if sample["image_id"] == 104:
            raise OSError("cannot identify image file")
        return super().__call__(sample)


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.sampling_offsets = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.sampling_offsets(x).relu())


class ToyDetector(nn.Module):
    """Two stages, dropout, losses named like a detector's, normalised by a count averaged over processes.

    ``explode_on``: the image id that makes a loss NaN; ``interrupt_at``: the training forward that sends SIGINT.
    """

    def __init__(
        self,
        *,
        channels: int = 6,
        dropout: float = 0.3,
        explode_on: int | None = None,
        interrupt_at: int | None = None,
    ):
        super().__init__()
        self.backbone = nn.Linear(3, channels)
        self.stages = nn.ModuleList(Block(channels) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.box_head = nn.Linear(channels, 4)
        self.explode_on = explode_on
        self.interrupt_at = interrupt_at
        self.steps = 0

    def forward(self, batched_inputs: list[dict], batch_totals=None):
        device = self.box_head.weight.device
        x = torch.stack([d["image"].mean((1, 2)) for d in batched_inputs]).to(device)
        x = self.backbone(x)
        if not self.training:
            return [self._instances(d, self.box_head(row)) for d, row in zip(batched_inputs, x, strict=True)]
        objects = sum(len(d["instances"]) for d in batched_inputs)
        objects = objects if batch_totals is None else batch_totals.objects
        count = torch.tensor(float(objects), device=device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        count = count / comm.get_world_size()
        self.steps += 1
        if self.steps == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        losses = {}
        for number, stage in enumerate(self.stages, start=1):
            x = self.dropout(stage(x))
            boxes = self.box_head(x)
            losses[f"loss_class/stage{number}"] = boxes.square().sum() / count
            losses[f"loss_box/stage{number}"] = (boxes - 1).abs().sum() / count
        if any(d["image_id"] == self.explode_on for d in batched_inputs):
            losses["loss_box/stage2"] = losses["loss_box/stage2"] * float("nan")
        return losses

    def _instances(self, sample: dict, box: torch.Tensor) -> dict:
        instances = Instances((sample["height"], sample["width"]))
        instances.pred_boxes = Boxes(box[None].detach().cpu().abs())
        instances.scores = torch.tensor([0.5])
        instances.pred_classes = torch.tensor([0])
        return {"instances": instances}


class ToyEvaluator(DatasetEvaluator):
    """Reports how many images it saw; draws random numbers, which must not reach the training."""

    def __init__(self):
        self.images = 0

    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)
        torch.rand(3), np.random.rand(3), random.random()

    def evaluate(self):
        return {"bbox": {"AP": float(self.images), "AP50": float("nan")}}


class ScriptedEvaluator(ToyEvaluator):
    """Reports the values of a list, one an evaluation of a run that evaluates every ``period`` iterations."""

    def __init__(self, values: list[float], period: int = 2):
        super().__init__()
        self.values, self.period = list(values), period

    def evaluate(self):
        done = get_event_storage().iter + 1 if has_event_storage() else len(self.values) * self.period
        return {"bbox": {"AP": float(self.values[min(done // self.period, len(self.values)) - 1]), "AP50": 1.0}}


class CountingHook(HookBase):
    """Writes how many iterations it saw to a file when the training ends."""

    def __init__(self, path: str):
        self.path, self.count = path, 0

    def after_step(self):
        self.count += 1

    def after_train(self):
        Path(self.path).write_text(str(self.count))


TOY_CONFIG = str(Path(__file__).parent / "engine" / "toy_config.py")


def run_toy(output_dir, *overrides: str, config: str = TOY_CONFIG, **flags) -> int:
    """Run train_net.py's main in this process on the toys; return the exit code."""
    arguments = ["--config-file", config, *(f"--{k.replace('_', '-')}" for k, v in flags.items() if v)]
    for name in ("fvcore", "detectron2", "sqr"):  # of an earlier run in this process, whose console is another
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    return train.main([*arguments, f"train.output_dir={output_dir}", *overrides])


def read_metrics(output_dir) -> dict[int, dict]:
    """Lines of metrics.json by iteration; the last one where an iteration stands twice."""
    lines = [json.loads(line) for line in (Path(output_dir) / "metrics.json").read_text().splitlines()]
    merged: dict[int, dict] = {}
    for line in lines:
        merged.setdefault(line.get("iteration"), {}).update(line)
    return merged
