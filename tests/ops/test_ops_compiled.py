"""The compiled CPU operators: numbers, edges, determinism, and what PyTorch asks of an operator."""

import pytest
import torch
from operator_cases import OPERATORS, SIZES, Case, assert_matches_reference, make_case

from sqr import ops
from sqr.ops import functional

pytestmark = pytest.mark.skipif(bool(functional.library.reason), reason=functional.library.reason or "compiled")


@pytest.fixture
def instruction_set():
    before = functional.library.instruction_set()
    yield functional.library.set_instruction_set
    functional.library.set_instruction_set(before)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_matches_reference(operator, sizes, dtype, tolerance):
    assert_matches_reference(make_case(operator, dtype=dtype, **sizes), "sqr", tolerance, tolerance)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "baseline"])
def test_every_instruction_set_matches_reference(operator, name, instruction_set):
    try:
        instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    for channels, queries in ((32, 400), (64, 3), (16, 3), (21, 9)):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            case = make_case(operator, channels=channels, queries=queries, dtype=dtype)
            assert_matches_reference(case, "sqr", tolerance, tolerance)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("queries", [3, 400])
def test_same_bits_for_any_number_of_threads(operator, queries, threads):
    case = make_case(operator, queries=queries, channels=32, heads=3)
    results = []
    for count in (1, 2, 5):
        threads(count)
        output = case.run()
        results.append((output, *torch.autograd.grad(output.square().sum(), case.arguments)))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradcheck(operator):
    case = make_case(operator, queries=3, channels=3, points=2, shapes=((3, 4), (2, 2)), dtype=torch.float64)
    torch.autograd.gradcheck(lambda *x: case.with_arguments(*x).run(), case.arguments, nondet_tol=0.0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_takes_any_strides(operator):
    case = make_case(operator)
    expected = case.run()
    shuffled = [x.detach().transpose(0, -1).contiguous().transpose(0, -1) for x in case.arguments]
    assert not any(x.is_contiguous() for x in shuffled)
    other = case.with_arguments(*(x.requires_grad_() for x in shuffled))
    assert torch.equal(other.run(), expected)
    grads = torch.autograd.grad(other.run().sum(), other.arguments)  # the gradient of a sum is expanded
    for got, want in zip(grads, torch.autograd.grad(expected.sum(), case.arguments), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}], ids=["no images", "no queries"])
def test_empty(operator, sizes):
    case = make_case(operator, **sizes)
    output = case.run()
    assert output.numel() == 0
    assert output.shape == case.run_reference()[0].shape
    for argument, grad in zip(case.arguments, torch.autograd.grad(output.sum(), case.arguments), strict=True):
        assert torch.equal(grad, torch.zeros_like(argument))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("queries", [3, 400])
@pytest.mark.parametrize("far", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 1e9], ids=str)
def test_not_finite_and_far_locations_count_as_outside(operator, queries, far):
    case = make_case(operator, queries=queries)
    value, locations, weights = case.arguments
    locations = locations.detach().clone()
    locations[:, ::2, ..., 0] = far
    case = case.with_arguments(value, locations.requires_grad_(), weights)
    assert_matches_reference(case, "sqr", 1e-5, 1e-5)
    output = case.run()
    assert torch.equal(output[:, ::2], torch.zeros_like(output[:, ::2]))
    grad = torch.autograd.grad(output.sum(), locations)[0]
    assert torch.equal(grad[:, ::2], torch.zeros_like(grad[:, ::2]))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("queries", [1, 300])
def test_values_that_are_not_read_do_not_leak(operator, queries):
    """A point left of the image sees neither a NaN in the last column of the row above, nor another head."""
    case = make_case(operator, batch=1, heads=2, queries=queries, points=1, shapes=((4, 4),))
    value = case.arguments[0].detach().clone()
    value[:, 3::4] = float("nan")  # the last column
    value[:, :, 1] = float("inf")
    position = torch.tensor([-0.3, 1.6])  # x, y in pixels
    scale = 4.0 if operator == "ms_deform_attn" else 1 / 4.0
    locations = ((position + 0.5) / scale).expand_as(case.arguments[1]).contiguous()
    output = case.with_arguments(value, locations, case.arguments[2].detach()).run()
    assert output.reshape(queries, 2, -1)[:, 0].isfinite().all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator):
    case = make_case(operator, queries=3, channels=8)
    value, locations, weights = case.arguments
    arguments = (value, *case.constants, locations, weights)
    torch.library.opcheck(getattr(torch.ops.sqr, operator).default, arguments)
    backward = (torch.randn_like(case.run()), *arguments)
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in backward]
    torch.library.opcheck(getattr(torch.ops.sqr, f"{operator}_backward").default, detached)


def public_call(case: Case, value, locations, weights):
    if case.operator == "ms_deform_attn":
        return ops.ms_deform_attn(value, case.shapes, locations, weights)
    return ops.adaptive_sample(value, case.shapes, case.strides, locations, weights)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(operator, dynamic):
    case = make_case(operator, queries=6)
    compiled = torch.compile(lambda *x: public_call(case, *x) * 2, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    output = compiled(*case.arguments)
    expected = public_call(case, *case.arguments) * 2
    assert torch.equal(output, expected)
    grads = torch.autograd.grad(output.sum(), case.arguments)
    for got, want in zip(grads, torch.autograd.grad(expected.sum(), case.arguments), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("operator", OPERATORS)
def test_exports_as_one_node(operator):
    case = make_case(operator, queries=6)

    class Module(torch.nn.Module):
        def forward(self, value, locations, weights):
            return public_call(case, value, locations, weights)

    arguments = tuple(x.detach() for x in case.arguments)
    queries = torch.export.Dim("queries", min=2, max=1000)
    program = torch.export.export(Module(), arguments, dynamic_shapes=({}, {1: queries}, {1: queries}), strict=False)
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert targets.count(f"sqr.{operator}.default") == 1
    other = make_case(operator, queries=11, seed=5)
    torch.testing.assert_close(program.module()(*other.arguments), public_call(other, *other.arguments))


@pytest.mark.parametrize("operator", OPERATORS)
def test_second_derivative_is_an_error(operator):
    case = make_case(operator)
    grads = torch.autograd.grad(case.run().square().sum(), case.arguments, create_graph=True)
    with pytest.raises(RuntimeError, match=f"sqr::{operator} has no second derivative"):
        sum(g.sum() for g in grads).backward()
    with ops.use_reference():
        output = public_call(case, *case.arguments)
        grads = torch.autograd.grad(output.square().sum(), case.arguments[0], create_graph=True)
        assert grads[0].requires_grad


@pytest.mark.parametrize("operator", OPERATORS)
def test_autocast(operator):
    case = make_case(operator)
    low = [x.detach().bfloat16() for x in case.arguments]
    with torch.autocast("cpu", torch.bfloat16):
        output = case.with_arguments(*low).run()
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, case.with_arguments(*(x.float() for x in low)).run())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_public_functions_take_16_bit_values(operator, dtype):
    case = make_case(operator)
    value, locations, weights = case.arguments
    low = value.detach().to(dtype).requires_grad_()
    output = public_call(case, low, locations, weights)
    assert output.dtype == dtype
    exact = public_call(case, low.float(), locations, weights)
    torch.testing.assert_close(output, exact.to(dtype))
    grads = torch.autograd.grad(output.float().sum(), (low, locations, weights))
    assert [g.dtype for g in grads] == [dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_check_what_they_get(operator):
    """The operators refuse what would reach outside of a tensor, also without the Python checks."""
    case = make_case(operator)
    value, locations, weights = (x.detach() for x in case.arguments)
    bad = {
        "cover": (value[:, 1:], locations, weights),
        "must be": (value, locations[:, :, :1], weights),
        "weights must be": (value, locations, weights[:, 1:]),
        "Float": (value, locations.double(), weights),
        "CPU value must be": (value.half(), locations, weights),
    }
    for message, arguments in bad.items():
        with pytest.raises(RuntimeError, match=message):
            case.with_arguments(*arguments).run()
    backward = getattr(torch.ops.sqr, f"{operator}_backward")
    grad = case.run().detach()
    with pytest.raises(RuntimeError, match="grad_output has shape"):
        backward(grad[:, 1:], value, *case.constants, locations, weights)
    flat = [0, *case.constants[0][1:]]
    with pytest.raises(RuntimeError, match="level 0 of spatial_shapes is 0 x"):
        getattr(torch.ops.sqr, operator)(value, flat, *case.constants[1:], locations, weights)
