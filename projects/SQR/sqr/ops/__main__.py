"""``python -m sqr.ops``: what was built, how, and whether it agrees with the references.

Exits with 1 if the self-check fails; having built nothing is not a failure.
"""

from __future__ import annotations

import sys

import torch

from . import (
    adaptive_mix,
    adaptive_mix_reference,
    adaptive_sample,
    adaptive_sample_reference,
    ms_deform_attn,
    ms_deform_attn_reference,
)
from .functional import library

SHAPES = [(12, 17), (6, 9), (3, 5)]
STRIDES = [8.0, 16.0, 32.0]
# Absolute for the forward pass, relative to the largest entry for gradients, against float64.
TOLERANCE = 1e-5


def describe() -> list[tuple[str, str]]:
    """The build as (name, text) pairs."""
    info = library.build_info
    lines = [("PyTorch", torch.__version__)]
    if library.path is None:
        return [*lines, ("operators", f"PyTorch reference: {library.reason}")]
    lines += [
        ("operators", str(library.path)),
        ("built with", f"{info.get('compiler', 'unknown')}, PyTorch {info.get('pytorch', 'unknown')}"),
        ("runs on", f"PyTorch {info.get('oldest_pytorch', '2.10')} and later (stable ABI)"),
        ("CPU kernels", f"float32, float64; {library.instruction_set()}"),
    ]
    if library.has_cuda:
        text = f"float16, bfloat16, float32, float64; {info.get('cuda_architectures', 'unknown')}"
    else:
        text = "not built"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*lines, ("CUDA kernels", text), ("CUDA devices", ", ".join(devices) or "none")]


def self_check(device: str) -> list[tuple[str, float, float]]:
    """Errors of each operator on ``device`` against float64: (name, forward, gradients)."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, tokens, 4, 32, generator=generator)
    # Cell and position inside it, away from pixel centres, where gradients are discontinuous.
    size = torch.tensor([[w, h] for h, w in SHAPES])[:, None]
    cell = (torch.rand(2, 50, 4, 3, 4, 2, generator=generator) * size).floor()
    locations = (cell + 0.2 + 0.6 * torch.rand(cell.shape, generator=generator) + 0.5) / size
    weights = torch.rand(2, 50, 4, 3, 4, generator=generator)
    points = locations[..., 0, :, :] * size[0] * STRIDES[0]
    mixing = [torch.randn(50, *shape, generator=generator) for shape in ((32, 64), (64, 64), (128, 32))]
    results = []
    for name, run, reference, arguments in (
        (
            "ms_deform_attn",
            lambda v, x, w: ms_deform_attn(v, SHAPES, x, w),
            lambda v, x, w: ms_deform_attn_reference(v, SHAPES, x, w),
            (value, locations, weights),
        ),
        (
            "adaptive_sample",
            lambda v, x, w: adaptive_sample(v, SHAPES, STRIDES, x, w),
            lambda v, x, w: adaptive_sample_reference(v, SHAPES, STRIDES, x, w),
            (value, points, weights.transpose(-1, -2).contiguous()),
        ),
        ("adaptive_mix", adaptive_mix, adaptive_mix_reference, mixing),
    ):
        ours = [x.to(device).requires_grad_() for x in arguments]
        exact = [x.double().requires_grad_() for x in arguments]
        output, expected = run(*ours), reference(*exact)
        forward = (output.cpu() - expected).abs().max().item()
        grads = torch.autograd.grad(output.square().sum(), ours)
        expected_grads = torch.autograd.grad(expected.square().sum(), exact)
        relative = [
            ((got.cpu() - want).abs().max() / want.abs().max()).item()
            for got, want in zip(grads, expected_grads, strict=True)
        ]
        results.append((f"{name} on {device}", forward, max(relative)))
    return results


def main() -> int:
    for name, text in describe():
        print(f"{name:14}{text}")
    failed = False
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        for name, forward, backward in self_check(device):
            good = forward < TOLERANCE and backward < TOLERANCE
            failed |= not good
            print(f"{'self-check':14}{name}: forward {forward:.1e}, gradients {backward:.1e}", end=" ")
            print("ok" if good else f"FAILED, more than {TOLERANCE:.0e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
