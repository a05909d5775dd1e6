"""Adaptive mixing: the compiled CPU operator and its reference."""

import pytest
import torch
import torch.nn.functional as F

from sqr import ops
from sqr.ops import functional

compiled = pytest.mark.skipif(bool(functional.library.reason), reason=functional.library.reason or "compiled")
# items, in points, out points, channels: AdaMixer's, whole vectors, tails of every kind, less than a vector
SIZES = [(18, 32, 128, 64), (5, 8, 16, 16), (37, 7, 11, 9), (2, 13, 5, 70), (3, 2, 4, 5), (1, 5, 3, 3)]


def arguments(items, points, out_points, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(items)
    shapes = ((points, channels), (channels, channels), (out_points, points))
    return [torch.randn(items, *s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def with_gradients(call, inputs):
    output = call(*inputs)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return output, *torch.autograd.grad((output * weight).sum(), inputs)


def test_the_reference_is_adamixers_formula():
    sampled, channel, spatial = arguments(2, 3, 4, 5, torch.float64)
    for n in range(2):
        x = F.layer_norm(sampled[n] @ channel[n], (3, 5)).relu()
        x = F.layer_norm(spatial[n] @ x, (4, 5)).relu()
        torch.testing.assert_close(ops.adaptive_mix_reference(sampled, channel, spatial)[n], x)
    torch.autograd.gradcheck(ops.adaptive_mix_reference, (sampled, channel, spatial))


@compiled
@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "baseline"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_matches_reference(name, sizes, dtype, tolerance):
    before = functional.library.instruction_set()
    try:
        functional.library.set_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        inputs = arguments(*sizes, dtype)
        found = with_gradients(lambda *x: torch.ops.sqr.adaptive_mix(*x, 1e-5), inputs)
        expected = with_gradients(ops.adaptive_mix_reference, [x.detach().double().requires_grad_() for x in inputs])
        for ours, exact in zip(found, expected, strict=True):
            largest = max(exact.abs().max().item(), 1e-6)
            torch.testing.assert_close(ours.double(), exact, rtol=0, atol=10 * tolerance * largest)
    finally:
        functional.library.set_instruction_set(before)


@compiled
def test_gradcheck_and_opcheck():
    inputs = arguments(3, 4, 5, 3, torch.float64)
    torch.autograd.gradcheck(ops.adaptive_mix, inputs, nondet_tol=0.0)
    torch.library.opcheck(torch.ops.sqr.adaptive_mix.default, (*inputs, 1e-5))


@compiled
def test_same_bits_for_any_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(with_gradients(ops.adaptive_mix, arguments(70, 8, 16, 16)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@compiled
def test_takes_any_strides():
    inputs = arguments(4, 6, 10, 8)
    turned = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    assert not turned[0].is_contiguous()
    for first, second in zip(
        with_gradients(ops.adaptive_mix, inputs), with_gradients(ops.adaptive_mix, turned), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 3, 0, 5)], ids=["no items", "no points out"])
def test_empty(sizes):
    output, *grads = with_gradients(ops.adaptive_mix, arguments(*sizes))
    assert output.shape == (sizes[0], sizes[2], sizes[3]) and not any(g.any() for g in grads)


@compiled
def test_not_a_number_stays_one():
    sampled, channel, spatial = arguments(3, 4, 5, 6)
    with torch.no_grad():
        sampled[1, 2, 3] = torch.nan
    output = ops.adaptive_mix(sampled, channel, spatial)
    assert output[1].isnan().all() and torch.isfinite(output[[0, 2]]).all()


@compiled
def test_keeps_its_arguments_alone():
    inputs, saved = arguments(4, 32, 128, 64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        ops.adaptive_mix(*inputs)
    assert sum(x.nbytes for x in saved) == sum(x.nbytes for x in inputs)


@compiled
@pytest.mark.parametrize("how", ["autocast", "16 bits", "reference"])
def test_pytorchs_products_where_the_operator_has_no_kernel(how, monkeypatch):
    monkeypatch.setattr(torch.ops.sqr, "adaptive_mix", lambda *args: pytest.fail("the compiled operator ran"))
    inputs = arguments(3, 4, 5, 6, torch.bfloat16 if how == "16 bits" else torch.float32)
    if how == "reference":
        with ops.use_reference():
            ops.adaptive_mix(*inputs)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
            ops.adaptive_mix(*inputs)


@compiled
def test_second_derivative_is_an_error():
    inputs = arguments(2, 3, 4, 5)
    (grad,) = torch.autograd.grad(ops.adaptive_mix(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="adaptive_mix has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: (4, 3)}, r"sampled must be \(queries, points, channels\), but is \(4, 3\)"),
        ({1: (2, 5, 4)}, r"channel must be \(2, 5, 5\) for sampled \(2, 3, 5\), but is \(2, 5, 4\)"),
        ({2: (2, 4, 5)}, r"spatial must be \(2, P_out, 3\) for sampled \(2, 3, 5\), but is \(2, 4, 5\)"),
    ],
)
def test_errors_name_what_does_not_fit(changes, message):
    inputs = [torch.zeros(changes.get(i, shape)) for i, shape in enumerate([(2, 3, 5), (2, 5, 5), (2, 4, 3)])]
    with pytest.raises(ValueError, match=message):
        ops.adaptive_mix(*inputs)


@compiled
def test_the_kernel_checks_what_it_gets():
    sampled, channel, spatial = (x.detach() for x in arguments(2, 3, 4, 5))
    with pytest.raises(RuntimeError, match=r"channel must be \(2, 5, 5\) for sampled \(2, 3, 5\), but is \(2, 5, 4\)"):
        torch.ops.sqr.adaptive_mix(sampled, channel[..., :4], spatial, 1e-5)
    with pytest.raises(RuntimeError, match="spatial must be Float as sampled is, but is Double"):
        torch.ops.sqr.adaptive_mix(sampled, channel, spatial.double(), 1e-5)
