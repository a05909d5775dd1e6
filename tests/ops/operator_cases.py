"""Inputs for the operators' tests, and the float64 references they are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sqr.ops import adaptive_sample_reference, ms_deform_attn_reference

# Bilinear sampling has a kink at every pixel centre, where its gradient jumps: points keep this far from
# them.
OFF_KNOT = 0.2


OPERATORS = ["ms_deform_attn", "adaptive_sample"]
# Each takes another way through drivers and kernels.
SIZES = {
    "pixels where they are": {"queries": 3, "channels": 32, "heads": 3},
    "gathered rows": {"queries": 400, "channels": 32},
    "one vector a row": {"queries": 3, "channels": 16},
    "wide rows": {"queries": 3, "channels": 112, "heads": 1},
    "padded rows": {"queries": 7, "channels": 8},
    "odd channels": {"queries": 7, "channels": 21},
    "one channel": {"queries": 7, "channels": 1},
    "many points": {"queries": 3, "points": 70, "channels": 32},
    "three points": {"queries": 65, "points": 3, "channels": 32},
    "one point, one level": {"points": 1, "shapes": ((4, 6),)},
    "a level of one pixel": {"shapes": ((1, 1),)},
    "a row and a column": {"shapes": ((1, 9), (9, 1))},
    "one image, one head": {"batch": 1, "heads": 1},
}


@dataclass
class Case:
    """One call: ``arguments`` are (value, locations, weights), each a leaf that wants a gradient."""

    operator: str
    shapes: list[tuple[int, int]]
    strides: list[float]
    arguments: tuple[Tensor, Tensor, Tensor]

    @property
    def constants(self) -> list:
        flat = [size for level in self.shapes for size in level]
        return [flat] if self.operator == "ms_deform_attn" else [flat, self.strides]

    def run(self, namespace: str = "sqr") -> Tensor:
        value, locations, weights = self.arguments
        return getattr(getattr(torch.ops, namespace), self.operator)(value, *self.constants, locations, weights)

    def run_reference(self) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The float64 result, and the leaves it comes from."""
        value, locations, weights = leaves = tuple(x.detach().double().clone().requires_grad_() for x in self.arguments)
        if self.operator == "ms_deform_attn":
            return ms_deform_attn_reference(value, self.shapes, locations, weights), leaves
        return adaptive_sample_reference(value, self.shapes, self.strides, locations, weights), leaves

    def with_arguments(self, *arguments: Tensor) -> Case:
        return Case(self.operator, self.shapes, self.strides, arguments)


def make_case(
    operator: str,
    *,
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    channels: int = 16,
    points: int = 4,
    shapes: tuple[tuple[int, int], ...] = ((9, 13), (5, 7), (1, 1)),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Case:
    """Random values, and points in and around every level that keep off the kinks by ``OFF_KNOT`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64)
    strides = [4.0 * 2**level for level in range(len(shapes))]
    if operator == "ms_deform_attn":
        locations = torch.stack(
            [_locations((batch, queries, heads, points), h, w, generator) for h, w in shapes], dim=3
        )
        weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    else:
        locations = _points((batch, queries, heads, points, 2), shapes, strides, generator)
        weights = torch.rand(batch, queries, heads, points, len(shapes), generator=generator)
    arguments = (value.to(dtype), locations.to(wide), weights.to(wide))
    return Case(operator, list(shapes), strides, tuple(x.to(device).requires_grad_() for x in arguments))


def _locations(shape: tuple[int, ...], height: int, width: int, generator: torch.Generator) -> Tensor:
    size = torch.tensor([width, height], dtype=torch.float64)
    cell = torch.floor(torch.rand(*shape, 2, generator=generator) * (size + 3)) - 2
    inside = OFF_KNOT + (1 - 2 * OFF_KNOT) * torch.rand(*shape, 2, generator=generator)
    return (cell + inside + 0.5) / size


def _points(shape, shapes, strides, generator: torch.Generator) -> Tensor:
    reach = max(max(h, w) * s for (h, w), s in zip(shapes, strides, strict=True))
    candidates = (torch.rand(*shape, 64, generator=generator, dtype=torch.float64) * 1.4 - 0.2) * reach
    distance = torch.full_like(candidates, math.inf)
    for stride in strides:
        position = candidates / stride - 0.5
        distance = torch.minimum(distance, (position - position.round()).abs())
    return candidates.gather(-1, distance.argmax(-1, keepdim=True)).squeeze(-1)


def assert_matches_reference(case: Case, namespace: str, forward: float, backward: float) -> None:
    """Compare with float64: the output by absolute error, gradients relative to each one's largest entry."""
    expected, leaves = case.run_reference()
    output = case.run(namespace)
    assert output.dtype == case.arguments[0].dtype
    assert output.shape == expected.shape
    torch.testing.assert_close(output.double(), expected, atol=forward, rtol=0)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = grad.to(output.dtype)  # both sides get the same rounded numbers
    grads = torch.autograd.grad(output, case.arguments, grad)
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())
    for name, got, want in zip(("value", "locations", "weights"), grads, expected_grads, strict=True):
        scale = max(want.abs().max().item(), 1e-3)
        error = (got.double() - want).abs().max().item() / scale
        assert error < backward, f"gradient of {name}: relative error {error:.2g}"
