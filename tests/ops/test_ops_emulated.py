"""The CUDA operators' own source, compiled for the host against an emulation of CUDA's execution.

What this cannot show: data races, streams and devices, speed, the arithmetic of real hardware. See
``test_ops_gpu``.
"""

import subprocess

import pytest
import torch
from compilers import CSRC, build_emulated_library, build_harness, needs_compiler
from operator_cases import OPERATORS, SIZES, assert_matches_reference, make_case

from sqr.ops import _library

pytestmark = needs_compiler

KERNELS = CSRC / "cuda" / "sampling.cuh"
# Absolute error of the output (of the order of 3), relative error of the gradients.
TOLERANCES = {
    torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-12, 1e-12),
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (6e-2, 1e-2),
}
# The emulation runs some 10,000 warp steps a second.
EMULATED_SIZES = {k: v for k, v in SIZES.items() if k not in ("gathered rows", "three points", "many points")}


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    torch.ops.load_library(build_emulated_library(tmp_path_factory.mktemp("emulated")))
    _library.register("sqr_emulated")
    return "sqr_emulated"


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", EMULATED_SIZES.values(), ids=EMULATED_SIZES.keys())
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_matches_reference(emulated, operator, sizes, dtype):
    assert_matches_reference(make_case(operator, dtype=dtype, **sizes), emulated, *TOLERANCES[dtype])


@pytest.mark.parametrize("operator", OPERATORS)
def test_more_points_than_lanes(emulated, operator):
    sizes = {"batch": 1, "queries": 2, "heads": 1, "points": 21, "channels": 16}
    assert_matches_reference(make_case(operator, **sizes), emulated, 1e-5, 1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_that_are_not_aligned(emulated, operator):
    """A view that starts in the middle of 16 bytes takes the kernels that load single numbers."""
    case = make_case(operator, queries=2)
    value, locations, weights = case.arguments
    buffer = torch.zeros(value.numel() + 1)
    buffer[1:] = value.detach().flatten()
    shifted = buffer[1:].view(value.shape).requires_grad_()
    assert shifted.data_ptr() % 16 != 0
    assert_matches_reference(case.with_arguments(shifted, locations, weights), emulated, 1e-5, 1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("far", [float("nan"), float("inf"), -1e30], ids=str)
def test_not_finite_and_far_locations_count_as_outside(emulated, operator, far):
    case = make_case(operator)
    value, locations, weights = case.arguments
    locations = locations.detach().clone()
    locations[:, ::2, ..., 1] = far
    case = case.with_arguments(value, locations.requires_grad_(), weights)
    assert_matches_reference(case, emulated, 1e-5, 1e-5)
    output = case.run(emulated)
    assert torch.equal(output[:, ::2], torch.zeros_like(output[:, ::2]))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}], ids=["no images", "no queries"])
def test_empty(emulated, operator, sizes):
    case = make_case(operator, **sizes)
    grads = torch.autograd.grad(case.run(emulated).sum(), case.arguments)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


@pytest.mark.parametrize("operator", OPERATORS)
def test_too_many_levels_is_an_error(emulated, operator):
    with pytest.raises(RuntimeError, match="at most 16 levels, but there are 17"):
        make_case(operator, shapes=((1, 1),) * 17).run(emulated)


def test_clean_under_sanitizers(tmp_path):
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    result = subprocess.run([build_harness(tmp_path, KERNELS, *flags)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "all equal" in result.stdout


# (what is planted, the line it replaces, the line it becomes, compiler flags, what has to be reported)
PLANTED = {
    "column past the end of a row": (
        "x0 + 1 < level.width;",
        "x0 + 1 <= level.width;",
        ["-fsanitize=address"],
        "heap-buffer-overflow",
    ),
    "wrong shuffle mask": (
        "__shfl_sync(kFullWarp, tap.row, lane, kLanes)",
        "__shfl_sync(0x0000ffffu, tap.row, lane, kLanes)",
        [],
        "mask leaves out the lane that calls it",
    ),
    "masks that differ": (
        "__shfl_sync(kFullWarp, tap.row, lane, kLanes)",
        "__shfl_sync(threadIdx.x % 2 ? kFullWarp : 0x7fffffffu, tap.row, lane, kLanes)",
        [],
        "differ in its mask",
    ),
    "early exit before a shuffle": (
        "    const I image = item",
        "    if (!active) return;\n    const I image = item",
        [],
        "waits for a lane that has left",
    ),
    "divergent barrier": (
        "    const I image = item",
        "    if (active) __syncthreads();\n    const I image = item",
        [],
        "at a barrier",
    ),
    "half of a reduction": (
        "offset = kLanes / 2;",
        "offset = kLanes / 4;",
        [],
        "wrong gradient of the locations",
    ),
    "gradient kept by the wrong lane": (
        "if (lane == j)",
        "if (lane == (j ^ 1))",
        [],
        "wrong gradient of the",
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_planted_errors_are_caught(planted, tmp_path):
    line, replacement, flags, report = planted
    source = KERNELS.read_text()
    assert line in source, "the kernels no longer have the line this test breaks"
    kernels = tmp_path / "sampling.cuh"
    kernels.write_text(source.replace(line, replacement))
    program = build_harness(tmp_path, kernels, "-O0", "-DSQR_ONE_SHAPE", *flags)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode != 0
    assert report in result.stderr
