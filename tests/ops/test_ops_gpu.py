"""What needs a CUDA device: numbers on real hardware, streams, devices, determinism, memory checking."""

import os
import shutil
import sys

import pytest
import torch
from compilers import ROOT, run
from operator_cases import OPERATORS, SIZES, assert_matches_reference, make_case

from sqr.ops import _library, functional

on_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(not functional.library.has_cuda, reason="the operators were built without CUDA"),
]


def gpu(test):
    for mark in on_device:
        test = mark(test)
    return test


@gpu
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [
        (torch.float32, 1e-5, 1e-5),
        (torch.float64, 1e-12, 1e-12),
        (torch.float16, 1e-2, 2e-3),
        (torch.bfloat16, 6e-2, 1e-2),
    ],
    ids=str,
)
def test_matches_reference(operator, sizes, dtype, forward, backward):
    case = make_case(operator, dtype=dtype, device="cuda", **sizes)
    assert_matches_reference(case, "sqr", forward, backward)


@gpu
@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_on_the_current_stream(operator):
    """Work queued before on a side stream must be seen, and the call must not wait for it."""
    case = make_case(operator, device="cuda", queries=300, channels=32)
    expected = case.run().detach()
    value, locations, weights = (x.detach() for x in case.arguments)
    late = torch.zeros_like(value)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(value)
        output = case.with_arguments(late, locations, weights).run()
        assert not stream.query()
    stream.synchronize()
    torch.testing.assert_close(output, expected)


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_on_the_device_of_its_tensors(operator):
    assert torch.cuda.current_device() == 0
    assert_matches_reference(make_case(operator, device="cuda:1"), "sqr", 1e-5, 1e-5)
    assert torch.cuda.current_device() == 0


@gpu
@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_refuses_deterministic_mode(operator):
    output = make_case(operator, device="cuda").run()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="adds with atomics"):
            output.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_clean_under_compute_sanitizer(tool):
    environment = {"PYTHONPATH": str(ROOT / "projects" / "SQR"), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "sqr.ops"]
    run(command, **{**os.environ, **environment})


def test_deterministic_mode_is_an_error_or_a_warning_as_asked():
    """The rule itself, which needs no device."""
    _library._alert_not_deterministic("sqr::ms_deform_attn_backward")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="sqr::ms_deform_attn_backward adds with atomics on CUDA"):
            _library._alert_not_deterministic("sqr::ms_deform_attn_backward")
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="adds with atomics"):
            _library._alert_not_deterministic("sqr::ms_deform_attn_backward")
    finally:
        torch.use_deterministic_algorithms(False)
