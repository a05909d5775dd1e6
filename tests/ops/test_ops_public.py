"""The public functions: input checks, and the fallback to the references with its one log line."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from compilers import ROOT
from operator_cases import OPERATORS, make_case

from sqr import ops
from sqr.ops import _library, functional


def deformable(**changes):
    case = make_case("ms_deform_attn")
    value, locations, weights = (x.detach() for x in case.arguments)
    arguments = {"value": value, "spatial_shapes": case.shapes, "sampling_locations": locations}
    return ops.ms_deform_attn(**{**arguments, "attention_weights": weights, **changes})


def adaptive(**changes):
    case = make_case("adaptive_sample")
    value, points, weights = (x.detach() for x in case.arguments)
    arguments = {"value": value, "spatial_shapes": case.shapes, "strides": case.strides, "points": points}
    return ops.adaptive_sample(**{**arguments, "level_weights": weights, **changes})


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    if request.param == "reference":
        with ops.use_reference():
            yield
    else:
        yield


@pytest.mark.parametrize(
    ("call", "changes", "error", "message"),
    [
        (deformable, {"value": torch.zeros(2, 3, 4)}, ValueError, "value must be .batch, tokens, heads"),
        (deformable, {"spatial_shapes": [(9, 13), (5, 7), (1, 2)]}, ValueError, "cover 154 tokens.*has 153"),
        (deformable, {"spatial_shapes": [(9, 13), (5, 7), (-1, -1)]}, ValueError, "has no pixels"),
        (deformable, {"spatial_shapes": []}, ValueError, "spatial_shapes must be one"),
        (deformable, {"sampling_locations": torch.zeros(2, 5, 2, 2, 4, 2)}, ValueError, "L=3, P, 2"),
        (deformable, {"sampling_locations": torch.zeros(2, 5, 2, 3, 0, 2)}, ValueError, r"5, 2, 3, 0, 2\)"),
        (deformable, {"attention_weights": torch.zeros(2, 5, 2, 3, 5)}, ValueError, "but is .2, 5, 2, 3, 5"),
        (deformable, {"attention_weights": torch.zeros(2, 5, 2, 3, 4).long()}, TypeError, "floating"),
        (
            deformable,
            {"attention_weights": torch.zeros(2, 5, 2, 3, 4, device="meta")},
            ValueError,
            "weights is on meta, but value on cpu",
        ),
        (adaptive, {"strides": [4.0, 8.0]}, ValueError, "3 positive numbers"),
        (adaptive, {"strides": [4.0, 8.0, 0.0]}, ValueError, "3 positive numbers"),
        (adaptive, {"points": torch.zeros(2, 5, 3, 4, 2)}, ValueError, "G=2, P, 2"),
        (adaptive, {"level_weights": torch.zeros(2, 5, 2, 4, 4)}, ValueError, "but is .2, 5, 2, 4, 4"),
    ],
)
def test_errors_name_what_does_not_fit(backend, call, changes, error, message):
    with pytest.raises(error, match=message):
        call(**changes)


@pytest.mark.parametrize("call", [deformable, adaptive])
def test_reference_and_compiled_agree(call):
    with ops.use_reference():
        expected = call()
    torch.testing.assert_close(call(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_references_pass_gradcheck(operator):
    case = make_case(operator, queries=2, channels=2, points=2, shapes=((3, 4), (2, 2)), dtype=torch.float64)
    reference = {
        "ms_deform_attn": lambda v, x, w: ops.ms_deform_attn_reference(v, case.shapes, x, w),
        "adaptive_sample": lambda v, x, w: ops.adaptive_sample_reference(v, case.shapes, case.strides, x, w),
    }[operator]
    torch.autograd.gradcheck(reference, case.arguments)


def test_adaptive_sampling_is_adamixers_formula():
    """Written out as AdaMixer does: one ``grid_sample`` a level on normalised points, weighted and added."""
    case = make_case("adaptive_sample", batch=1, heads=2, channels=3, shapes=((6, 8), (3, 4)))
    value, points, weights = (x.detach() for x in case.arguments)
    expected = torch.zeros(points.shape[:-1] + (3,))
    start = 0
    for level, ((h, w), stride) in enumerate(zip(case.shapes, case.strides, strict=True)):
        feature = value[:, start : start + h * w].permute(0, 2, 3, 1).reshape(1, 6, h, w)
        start += h * w
        for group in range(2):
            grid = 2 * points[:, :, group] / torch.tensor([w * stride, h * stride]) - 1
            sampled = torch.nn.functional.grid_sample(feature[:, 3 * group : 3 * group + 3], grid, align_corners=False)
            expected[:, :, group] += sampled.permute(0, 2, 3, 1) * weights[:, :, group, :, level, None]
    got = ops.adaptive_sample(value, case.shapes, case.strides, points, weights)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("call", [deformable, adaptive])
def test_one_log_line_says_why_the_reference_runs(call, monkeypatch, caplog):
    monkeypatch.setattr(functional, "library", _library.Library(None, "not built at install time: no g++"))
    monkeypatch.setattr(functional, "_told", set())
    with caplog.at_level(logging.WARNING, logger="sqr.ops.functional"):
        first = call()
        torch.testing.assert_close(call(), first)
    assert len(caplog.records) == 1
    assert "not built at install time: no g++" in caplog.text


def test_a_library_that_does_not_load_is_a_reason_not_an_error(monkeypatch, tmp_path):
    (tmp_path / "_C.abi3.so").write_text("not a library")
    monkeypatch.setattr(_library, "PACKAGE", tmp_path)
    monkeypatch.setattr(_library, "BUILD_INFO", tmp_path / "none.json")
    found = _library.load()
    assert found.path is None
    assert "_C.abi3.so does not load into PyTorch" in found.reason
    (tmp_path / "_C.abi3.so").unlink()
    assert "no compiled extension" in _library.load().reason


def test_a_stale_library_of_a_failed_build_is_not_loaded(monkeypatch, tmp_path):
    (tmp_path / "_C.abi3.so").write_text("of an older build")
    (tmp_path / "info.json").write_text('{"failure": "g++ 12: error"}')
    monkeypatch.setattr(_library, "PACKAGE", tmp_path)
    monkeypatch.setattr(_library, "BUILD_INFO", tmp_path / "info.json")
    assert _library.load().reason == "not built at install time: g++ 12: error"


@pytest.mark.skipif(bool(functional.library.reason), reason=functional.library.reason or "compiled")
def test_a_library_older_than_the_package_is_a_reason(monkeypatch):
    monkeypatch.setattr(_library, "OPERATORS", (*_library.OPERATORS, "of_next_year"))
    found = _library.load()
    assert found.path is None and "is older than this package, it has no of_next_year; build it again" in found.reason


@pytest.mark.parametrize("wanted", ["", "reference"])
def test_module_describes_itself_and_checks(wanted):
    environment = {**os.environ, "SQR_OPS": wanted, "PYTHONPATH": str(ROOT / "projects" / "SQR")}
    result = subprocess.run([sys.executable, "-m", "sqr.ops"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("ok\n") >= 2
    if wanted:
        assert "SQR_OPS=reference asks for the PyTorch reference" in result.stdout
