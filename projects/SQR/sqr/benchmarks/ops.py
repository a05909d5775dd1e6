"""The operators against their references, other packages and the machine: ``benchmark.py ops``.

Shapes are those of an 800x1066 image: Deformable DETR's four levels (17,821 tokens, 8 heads of 32 channels,
4 points) and AdaMixer's (71,000 pixels, 4 groups of 64 channels, 32 points in, 128 out). Everything goes through
autograd and dispatcher.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from .reporting import benchmark, use_threads
from .timing import bandwidth, flops, interleaved, least_disturbed

DEFORMABLE_LEVELS = [(100, 134), (50, 67), (25, 34), (13, 17)]
ADAMIXER_LEVELS = [(200, 267), (100, 134), (50, 67), (25, 34)]
ADAMIXER_STRIDES = [4.0, 8.0, 16.0, 32.0]
MIXING = (4, 64, 32, 128)  # feature groups, channels per group, points in, points out
# name: (operator, images, queries; 0 queries is one for each token)
CASES = {
    "encoder-b1": ("ms_deform_attn", 1, 0),
    "encoder-b2": ("ms_deform_attn", 2, 0),
    "decoder-300": ("ms_deform_attn", 1, 300),
    "decoder-300-b2": ("ms_deform_attn", 2, 300),
    "decoder-3900": ("ms_deform_attn", 1, 3900),
    "adamixer-300": ("adaptive_sample", 1, 300),
    "adamixer-3900": ("adaptive_sample", 1, 3900),
    "mixing-300": ("adaptive_mix", 1, 300),
    "mixing-2600": ("adaptive_mix", 2, 1300),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, nargs="+", help="by default one, and all there are")
    parser.add_argument("--repeats", type=int, default=5)


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Time every case and print a line for each variant."""
    all_threads = torch.get_num_threads()
    threads = args.threads or (sorted({1, all_threads}) if args.device == "cpu" else [all_threads])
    report = {"dtype": args.dtype, "roof": {}, "results": []}
    for count in threads:
        with use_threads(count):
            roof = {"bytes_per_s": bandwidth(args.device), "flops_per_s": flops(args.device)}
            report["roof"][f"{count} threads"] = roof
            for name in args.cases:
                for backward in (False, True):
                    row = time_case(name, backward, args, roof)
                    row["threads"] = count
                    report["results"].append(row)
                    print_row(row)
    return report


def time_case(name: str, backward: bool, args: argparse.Namespace, roof: dict) -> dict:
    operator, batch, queries = CASES[name]
    arguments = make_arguments(operator, batch, queries, args.device, getattr(torch, args.dtype))
    variants = {
        variant: timed_call(call, arguments, backward)
        for variant, call in implementations(operator, args.device, args.dtype).items()
    }
    times = interleaved(variants, device=args.device, repeats=args.repeats)
    limit_ms = 1e3 * lower_bound(operator, arguments, backward, roof)
    key = least_disturbed(args.device)
    return {
        "case": name,
        "pass": "forward+backward" if backward else "forward",
        "times": times,
        "speedup": times["reference"][key] / times["sqr"][key],
        "share_of_roofline": limit_ms / times["sqr"][key],
    }


def implementations(operator: str, device: str, dtype: str) -> dict[str, Callable]:
    """Calls of :func:`make_arguments`' tensors by name; third-party packages if installed."""
    if operator == "adaptive_mix":
        return {"sqr": ops.adaptive_mix, "reference": ops.adaptive_mix_reference}
    if operator == "adaptive_sample":
        levels, strides = ADAMIXER_LEVELS, ADAMIXER_STRIDES
        return {
            "sqr": lambda v, x, w: ops.adaptive_sample(v, levels, strides, x, w),
            "reference": lambda v, x, w: ops.adaptive_sample_reference(v, levels, strides, x.to(v.dtype), w),
        }
    levels = DEFORMABLE_LEVELS
    found = {
        "sqr": lambda v, x, w: ops.ms_deform_attn(v, levels, x, w),
        "reference": lambda v, x, w: ops.ms_deform_attn_reference(v, levels, x.to(v.dtype), w.to(v.dtype)),
    }
    if importlib.util.find_spec("torch_ms_deform_attn") and dtype == "float32":
        from torch_ms_deform_attn import ms_deform_attn as other

        shapes = torch.tensor(levels, device=device)
        starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
        found["torch-ms-deform-attn"] = lambda v, x, w: other(v, shapes, starts, x, w)
    return found


def make_arguments(
    operator: str, batch: int, queries: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations and weights as early in training: near each query, a few pixels apart.

    For adaptive mixing: sampled features and both matrices.
    """
    torch.manual_seed(0)
    if operator == "adaptive_mix":
        heads, channels, points, out_points = MIXING
        shapes = ((points, channels), (channels, channels), (out_points, points))
        arguments = [torch.randn(batch * queries * heads, *shape, dtype=dtype) for shape in shapes]
        return tuple(x.to(device).requires_grad_() for x in arguments)
    if operator == "adaptive_sample":
        levels, heads, channels, points = ADAMIXER_LEVELS, 4, 64, 32
        # The queries of SQR's groups lie near each other: 300 centres, 13 times.
        centres = torch.rand(batch, 300, 1, 1, 2).repeat(1, queries // 300, 1, 1, 1)
        image = torch.tensor([1066.0, 800.0])
        locations = centres * image + 60 * torch.randn(batch, queries, heads, points, 2)
        weights = torch.rand(batch, queries, heads, points, len(levels)).softmax(-1)
    else:
        levels, heads, channels, points = DEFORMABLE_LEVELS, 8, 32, 4
        if queries:
            centres = torch.rand(batch, queries, 1, 1, 1, 2)
        else:
            grids = [
                torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
                for h, w in levels
            ]
            centres = torch.cat(grids)[None, :, None, None, None].expand(batch, -1, 1, 1, 1, 2)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        ring = torch.stack((angles.cos(), angles.sin()), -1)
        ring = (ring / ring.abs().amax(-1, keepdim=True))[:, None, None] * torch.arange(1, points + 1)[:, None]
        noise = 2 * torch.randn(batch, centres.shape[1], heads, len(levels), points, 2)
        locations = centres + (ring + noise) / torch.tensor([[w, h] for h, w in levels])[:, None]
        weights = torch.rand(batch, centres.shape[1], heads, len(levels) * points).softmax(-1)
        weights = weights.unflatten(-1, (len(levels), points))
    value = torch.randn(batch, sum(h * w for h, w in levels), heads, channels, dtype=dtype)
    return tuple(x.to(device).contiguous().requires_grad_() for x in (value, locations, weights))


def timed_call(call: Callable, arguments: tuple[Tensor, ...], backward: bool) -> Callable[[], object]:
    if not backward:

        def forward():
            with torch.no_grad():
                return call(*arguments)

        return forward
    with torch.no_grad():
        grad = torch.randn_like(call(*arguments))
    return lambda: torch.autograd.grad(call(*arguments), arguments, grad)


def lower_bound(operator: str, arguments: tuple[Tensor, ...], backward: bool, roof: dict) -> float:
    """Lower bound in seconds: the larger of moving every tensor once and of the arithmetic.

    Assumes a perfect cache: pixels are counted once, and only as many as the taps can read, so no
    kernel reaches it.
    """
    if operator == "adaptive_mix":
        return mixing_bound(*arguments, backward, roof)
    value, locations, weights = arguments
    channels, taps = value.shape[-1], weights.numel()
    rows = taps // (len(ADAMIXER_LEVELS) if operator == "adaptive_sample" else weights.shape[-1] * weights.shape[-2])
    pixels_read = min(value.numel(), 4 * taps * channels)
    bytes_moved = (pixels_read + rows * channels) * value.element_size()
    bytes_moved += (locations.numel() + weights.numel()) * locations.element_size()
    operations = 8 * taps * channels
    if backward:
        bytes_moved, operations = 3 * bytes_moved, 3 * operations
    return max(bytes_moved / roof["bytes_per_s"], operations / roof["flops_per_s"])


def mixing_bound(sampled: Tensor, channel: Tensor, spatial: Tensor, backward: bool, roof: dict) -> float:
    """As :func:`lower_bound`: arguments and output moved once (and their gradients), two products (and four)."""
    items, points, channels = sampled.shape
    out_points = spatial.shape[1]
    numbers = sampled.numel() + channel.numel() + spatial.numel() + items * out_points * channels
    operations = 2 * items * points * channels * (channels + out_points)
    if backward:
        numbers, operations = 3 * numbers, 3 * operations
    return max(numbers * sampled.element_size() / roof["bytes_per_s"], operations / roof["flops_per_s"])


def print_row(row: dict) -> None:
    times = "  ".join(f"{name} {t['median_ms']:.2f} ms" for name, t in row["times"].items())
    print(
        f"{row['case']:15} {row['pass']:17} {row['threads']} threads  {times}  "
        f"{row['speedup']:.1f}x the reference, {row['share_of_roofline']:.0%} of the roofline",
        flush=True,
    )
