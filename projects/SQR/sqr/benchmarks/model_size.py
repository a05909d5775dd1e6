"""How large a model and its checkpoints are, and what a forward pass computes."""

from __future__ import annotations

from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from .executions import PLANS, running
from .flops import forward_flops
from .prediction import optimizer_state_ratio
from .subjects import Subject


def sizes(cfg: DictConfig, size: tuple[int, int]) -> dict:
    """Parameters, bytes of checkpoints with and without what a resumed run needs, multiply-adds of one image."""
    subject = Subject.from_config(cfg)
    model = subject.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = state_dict_bytes(model)
    state = optimizer_state_ratio(cfg) * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    flops = {}
    for plan in PLANS:
        with running(model, plan):
            flops[plan] = forward_flops(model, size, images=1)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": trainable,
        "by_part": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "weights_bytes": weights,
        "checkpoint_bytes": weights + int(state),
        "size": size,
        "multiply_adds": flops,
    }


def state_dict_bytes(model: nn.Module) -> int:
    """Bytes that a file of the model's state dict holds: what modules share is stored once."""
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in model.state_dict().values()}
    return sum(storages.values())


def print_sizes(found: dict) -> None:
    parts = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in found["by_part"].items() if count)
    print(f"parameters: {found['parameters'] / 1e6:.1f} M, {found['trainable'] / 1e6:.1f} M trainable ({parts})")
    print(
        f"checkpoint: {found['weights_bytes'] / 1e6:.0f} MB of weights, {found['checkpoint_bytes'] / 1e6:.0f} MB with "
        "the optimizer's state, to resume from"
    )
    height, width = found["size"]
    rows = [
        {"forward pass": plan, **{name: count / 1e9 for name, count in by_part.items()},
         "GFLOP": sum(by_part.values()) / 1e9}
        for plan, by_part in found["multiply_adds"].items()
    ]  # fmt: skip
    print(f"\nmultiply-adds of an image of {height}x{width}; evaluation runs the sequential plan")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"), flush=True)
