"""What the processes of the distributed test run; a module of its own so that they can import it."""

import argparse
from pathlib import Path

import torch
from detectron2.utils import comm

from engine_toys import ToyDetector, ToyMapper, run_toy, toy_dicts
from helpers import build, random_batch
from small_models import lively, small_config
from sqr.distributed import create_ddp_model
from sqr.engine import build_train_loader
from sqr.errors import UserError

DETECTORS = ["deformable_refine", "detr"]
PLAIN = ["+model.dropout=0.0", "train.max_iter=4", "train.eval_period=2", "train.clip_grad.max_norm=null"]


def first_batch_gradients() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = create_ddp_model(ToyDetector(dropout=0.0))
    batch = next(iter(build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)))
    sum(model(batch).values()).backward()
    inner = model.module if comm.get_world_size() > 1 else model
    return {name: p.grad for name, p in inner.named_parameters()}


def detector_gradients(detector: str) -> dict[str, torch.Tensor]:
    """Of a training step on two images, one a process where there are two; with two, in checkpointed passes."""
    model = lively(build(small_config(detector, "selective"))).train()
    batch = random_batch([(64, 96), (64, 96)], [3, 3])  # as many each: DETR weighs classes by process
    if comm.get_world_size() > 1:
        model.decoder.checkpoint_groups, model.decoder.max_groups_per_pass = True, 2
        batch = batch[comm.get_rank() :][:1]
    wrapped = create_ddp_model(model)  # kept: without the wrapper nothing is averaged
    sum(wrapped(batch).values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def work(folder: str) -> None:
    """Save this process's gradients, then train a little."""
    for detector in DETECTORS:
        name = f"{detector}_{comm.get_world_size()}_{comm.get_rank()}.pth"
        torch.save(detector_gradients(detector), Path(folder) / name)
    torch.save(first_batch_gradients(), Path(folder) / f"gradients_{comm.get_world_size()}_{comm.get_rank()}.pth")
    run_toy(Path(folder) / f"run_{comm.get_world_size()}", *PLAIN)
    run_toy(Path(folder) / f"parts_{comm.get_world_size()}", *PLAIN, "train.accumulation_steps=2")


def train_or_fail(args: argparse.Namespace) -> None:
    """A main function for run_command that fails as a user error in every process."""
    raise UserError("this dataset is empty")
