"""Where a training step's time goes: by part of the model, forward and backward, and by operator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from .reporting import print_table

FORWARD, BACKWARD = "forward", "backward"
REST = "images, sums of losses, accumulation of gradients"
DECODER = "decoder: norms, positions, boxes"
# what a stage's submodules are, by the names that all detectors give them
_STAGE_PARTS = {
    "self_attn": "decoder: self-attention",
    "cross_attn": "decoder: cross-attention",
    "sampling": "decoder: sampling",
    "mixing": "decoder: mixing",
    "ffn": "decoder: FFN",
    "class_embed": "decoder: heads",
    "bbox_embed": "decoder: heads",
}
PARTS = ("backbone", "encoder", "query generator", *dict.fromkeys(_STAGE_PARTS.values()), DECODER,
         "matching and loss", "optimizer", REST)  # fmt: skip
_METHODS = ("forward", "attend", "project")  # deformable attention is called by the latter two
_NODE = "autograd::engine::evaluate_function: "


def profile_step(step: Callable[[], object], *, device: str) -> torch.profiler.profile:
    """The profile of ``step``, which has run before."""
    activities = [ProfilerActivity.CPU, *([] if device == "cpu" else [ProfilerActivity.CUDA])]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
    return profiler


@contextlib.contextmanager
def marked_parts(model: nn.Module, *, inside_stages: bool = True) -> Iterator[None]:
    """Inside this context a profiler sees the parts of the model.

    Args:
        inside_stages: also the parts of the decoder's stages; not where these are compiled, whose graphs marks would
            break.
    """
    modules = {
        model.backbone: "backbone",
        model.encoder: "encoder",
        model.query_generator: "query generator",
        model.decoder: DECODER,
        model.criterion: "matching and loss",
    }
    if inside_stages:
        for stage in model.decoder.stages:
            modules[stage] = DECODER  # checkpointing runs it again in the backward pass, outside of the decoder
            modules |= {child: _STAGE_PARTS[n] for n, child in stage.named_children() if n in _STAGE_PARTS}
    changed = []
    try:
        for module, part in modules.items():
            for method in filter(functools.partial(hasattr, module), _METHODS):
                changed.append((module, method))
                setattr(module, method, _marked(getattr(module, method), part))
        yield
    finally:
        for module, method in changed:
            delattr(module, method)  # its class's own shows again


def _marked(call: Callable, part: str) -> Callable:
    @functools.wraps(call)
    def marked(*args, **kwargs):
        with record_function(part):
            return call(*args, **kwargs)

    return marked


def by_part(profiler: torch.profiler.profile, *, device: str) -> list[dict]:
    """Seconds of each part, forward and backward, and its share of the step.

    Every event's own time goes to the innermost part that was running. In the backward pass that is the part which
    made the operator's forward counterpart; what checkpointing computes again there counts as backward too. On a CPU
    the time is the host's, Python included; on a GPU it is that of kernels.
    """
    events = [e for e in profiler.events() if e.device_type == DeviceType.CPU]
    part_of = _forward_parts(events)
    seconds = {part: {FORWARD: 0.0, BACKWARD: 0.0} for part in PARTS}
    for event in events:
        part, direction = _owner(event, part_of)
        seconds[part][direction] += 1e-6 * _own_time(event, device)
    total = sum(sum(both.values()) for both in seconds.values())
    return [
        {"part": part, **both, "share": sum(both.values()) / total}
        for part, both in seconds.items()
        if any(both.values())
    ]


def by_operator(profiler: torch.profiler.profile, *, device: str, rows: int = 15) -> list[dict]:
    """The operators that take most of a step, with their own time in seconds and share."""
    kind = "cpu" if device == "cpu" else "device"
    events = [e for e in profiler.key_averages() if e.key not in PARTS]
    times = sorted(((getattr(e, f"self_{kind}_time_total") / 1e6, e) for e in events), key=lambda x: -x[0])
    total = sum(seconds for seconds, _ in times)
    return [
        {"operator": e.key, "calls": e.count, "seconds": seconds, "share": seconds / total}
        for seconds, e in times[:rows]
    ]


def _forward_parts(events: list) -> dict[int, str]:
    """The part that made each node of the autograd graph, by its number.

    An operator that makes no node has the number of the next that does; so the last one with a number made it.
    """
    parts = {}
    for event in sorted(events, key=lambda e: e.time_range.start):
        if event.sequence_nr >= 0 and not event.name.startswith(_NODE):
            part, direction = _owner(event, {})
            if direction == FORWARD:
                parts[event.sequence_nr] = part
    return parts


def _owner(event, part_of: dict[int, str]) -> tuple[str, str]:
    """Part and direction of an event: those of the innermost mark, or node of the backward pass, around it."""
    part = None
    while event is not None:
        if event.name.startswith(_NODE):
            return part or part_of.get(event.sequence_nr, REST), BACKWARD
        if part is None and event.name in PARTS:
            part = event.name
        event = event.cpu_parent
    return part or REST, FORWARD


def _own_time(event, device: str) -> float:
    """Microseconds."""
    return event.self_cpu_time_total if device == "cpu" else sum(kernel.duration for kernel in event.kernels)


def print_profiles(profiles: dict[str, dict]) -> None:
    """By part and by operator, a table a variant; for several variants also what makes the others longer."""
    for name, found in profiles.items():
        print_table(f"parts of a step of {name}, seconds under the profiler", found["parts"])
        print_table(f"operators of a step of {name}, by their own time", found["operators"])
    first, *others = ({row["part"]: row[FORWARD] + row[BACKWARD] for row in p["parts"]} for p in profiles.values())
    for name, other in zip(list(profiles)[1:], others, strict=True):
        growth = sum(other.values()) - sum(first.values())
        rows = []
        for part in filter(lambda part: part in first or part in other, PARTS):
            before, after = first.get(part, 0.0), other.get(part, 0.0)
            rows.append({"part": part, next(iter(profiles)): before, name: after, "more": after - before,
                         "of all that is more": (after - before) / growth})  # fmt: skip
        print_table(f"where {name} takes longer than {next(iter(profiles))}, seconds under the profiler", rows)
