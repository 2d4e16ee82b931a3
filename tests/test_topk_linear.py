"""topk_linear: every implementation against an oracle in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from implementations import ON_DEVICE, SCHEDULES, bits
from kernel_program import KernelProgram
from topk_implementations import Linear, TopkFunctions, TopkSanitized, expected_selection
from torch import Tensor

from sparse_aasist import _extension
from sparse_aasist.ops import (
    backend,
    topk_activation,
    topk_linear,
    topk_linear_reference,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Implementation = TopkFunctions | TopkSanitized
Function = Callable[..., Tensor]


def problem(
    rows: int, dim: int, classes: int, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """Return random tensors for one call and its gradients."""
    generator = torch.Generator().manual_seed(seed + dim)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    scale = torch.bernoulli(torch.full((rows, dim), 0.5), generator=generator) * 2
    return {
        "x": randn(rows, dim),
        "weight": randn(classes, dim) / 4,
        "bias": randn(classes),
        "scale": scale.to(dtype),
        "grad_output": randn(rows, classes) / 8,
        "grad_activation": randn(rows, dim),
    }


def expected_linear(
    x: Tensor,
    k: int,
    by: str,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    grad_output: Tensor,
    grad_activation: Tensor | None,
) -> Linear:
    """Return the results in float64, from the selection of the oracle."""
    selection = expected_selection(x, k, by, torch.ones_like(x))
    y, passes = selection.activation.double(), selection.dx.double()
    factor = torch.ones_like(y) if scale is None else scale.double()
    scaled, grad = y * factor, grad_output.double()
    flat = grad.flatten(0, -2)
    dx = grad @ weight.double() * factor
    if grad_activation is not None:
        dx = dx + grad_activation.double()
    output = scaled @ weight.double().t() + bias.double()
    return Linear(output, y, dx * passes, flat.t() @ scaled.flatten(0, -2), flat.sum(0))


def assert_close(got: Linear, expected: Linear, dtype: torch.dtype, dense_grad: bool) -> None:
    """Rounded once, results are within one unit in the last place; sums of float64 within 1e-12."""
    info = torch.finfo(dtype)
    relative = 1e-12 if dtype is torch.float64 else info.eps
    for name, tensor, wanted in zip(Linear._fields, got, expected, strict=True):
        assert tensor.shape == wanted.shape and tensor.dtype == dtype, name
        absolute = max(1e-14, info.tiny * info.eps)
        if name == "dx" and dense_grad:
            # The reference rounds two gradients of about 1 before it adds them.
            absolute = 4 * info.eps
        torch.testing.assert_close(tensor.double(), wanted, rtol=relative, atol=absolute, msg=name)


def check(
    implementation: Implementation,
    tensors: dict[str, Tensor],
    k: int,
    by: str,
    *,
    scaled: bool = True,
    dense_grad: bool = True,
) -> None:
    x, weight, bias = tensors["x"], tensors["weight"], tensors["bias"]
    arguments = (
        *(x, k, by, weight, bias),
        tensors["scale"] if scaled else None,
        tensors["grad_output"],
        tensors["grad_activation"] if dense_grad else None,
    )
    got = implementation.linear(*arguments)
    assert_close(got, expected_linear(*arguments), x.dtype, dense_grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "dim", "classes", "k"),
    [
        *((1, 1, 1, 1), (5, 31, 2, 7), (40, 160, 2, 20), (70, 320, 2, 20), (33, 129, 36, 129)),
        *((9, 1025, 3, 100), (3, 2500, 5, 40), (2, 4100, 64, 2)),
    ],
)
def test_random(
    topk: Implementation, rows: int, dim: int, classes: int, k: int, dtype: torch.dtype
) -> None:
    tensors = problem(rows, dim, classes, dtype)
    for by in ("value", "abs", "relu"):
        check(topk, tensors, k, by)
    check(topk, tensors, k, "value", scaled=False, dense_grad=False)


def test_many_rows_add_up_in_chunks(topk: Implementation) -> None:
    check(topk, problem(700, 24, 3, torch.float32), 5, "value")


def test_gradients_larger_than_the_caches(topk: Implementation) -> None:
    if isinstance(topk, TopkSanitized) and topk.where[0] == ON_DEVICE:
        pytest.skip("device code writes all rows alike, and these would take minutes")
    tensors = problem(8_700, 1000, 2, torch.float32)
    arguments = [tensors[n] for n in ("weight", "bias", "scale", "grad_output")]
    got = topk.linear(tensors["x"], 9, "relu", *arguments, None)
    expected = TopkFunctions("reference").linear(tensors["x"], 9, "relu", *arguments, None)
    assert_close(got, Linear(*(t.double() for t in expected)), torch.float32, False)


def test_columns_need_several_tiles(topk: Implementation) -> None:
    check(topk, problem(3, 3000, 7, torch.float32), 500, "relu")


def test_ties_zeros_and_infinities(topk: Implementation) -> None:
    tensors = problem(6, 40, 2, torch.float32)
    tensors["x"] = tensors["x"].round()
    tensors["x"][3] = 0
    tensors["x"][4] = -1.0
    tensors["x"][5, 7] = -float("inf")  # never kept
    for by in ("value", "relu"):
        check(topk, tensors, 9, by)


def test_nan_reaches_its_row_only(topk: Implementation) -> None:
    tensors = problem(3, 40, 2, torch.float32)
    tensors["x"][1, 5] = float("nan")
    arguments = [tensors[n] for n in ("weight", "bias")] + [None, tensors["grad_output"], None]
    got = topk.linear(tensors["x"], 4, "value", *arguments)
    assert got.output.isnan().all(dim=1).tolist() == [False, True, False]
    assert got.dweight.isnan().any(dim=0).nonzero().tolist() == [[5]]
    assert not got.dx.isnan().any() and not got.dbias.isnan().any()


def test_empty_batch(topk: Implementation) -> None:
    got = topk.linear(
        torch.empty(0, 8),
        3,
        "value",
        torch.ones(2, 8),
        torch.ones(2),
        None,
        torch.empty(0, 2),
        None,
    )
    assert got.output.shape == (0, 2) and got.dx.shape == (0, 8)
    assert torch.equal(got.dweight, torch.zeros(2, 8)) and torch.equal(got.dbias, torch.zeros(2))


def test_rows_read_in_place(topk: Implementation) -> None:
    tensors = problem(12, 40, 2, torch.float32)
    tensors["x"] = problem(12, 45, 2, torch.float32)["x"][:, 3:43]
    tensors["grad_activation"] = torch.ones(1).expand(12, 40)
    check(topk, tensors, 6, "value")


def test_sums_do_not_depend_on_how_columns_are_shared(topk_program: KernelProgram) -> None:
    tensors = problem(50, 100, 3, torch.float32)
    arguments = [tensors[n] for n in ("weight", "bias", "scale", "grad_output", "grad_activation")]
    portable = TopkSanitized(topk_program, 0)
    runs = [portable.linear(tensors["x"], 9, "relu", *arguments, columns=n) for n in (1, 7, 100)]
    for run in runs[1:]:
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_in_any_order_of_threads(topk_program: KernelProgram, schedule: str) -> None:
    device_code = TopkSanitized(topk_program, ON_DEVICE, schedule)
    check(device_code, problem(70, 160, 2, torch.float32), 20, "value")
    check(device_code, problem(2, 2500, 3, torch.float32), 50, "relu")


def test_backends_agree_bit_for_bit(topk: Implementation) -> None:
    """Sums in float64 leave the rounded result the same in whatever order they are taken."""
    tensors = problem(64, 160, 2, torch.float32)
    arguments = [tensors[n] for n in ("weight", "bias", "scale", "grad_output")]
    got = topk.linear(tensors["x"], 20, "value", *arguments, None)
    expected = TopkFunctions("reference").linear(tensors["x"], 20, "value", *arguments, None)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(got, expected, strict=True))


@pytest.mark.needs_cuda
def test_raw_ops_refuse_two_devices() -> None:
    x, weight, bias = torch.ones(2, 3).cuda(), torch.ones(2, 3).cuda(), torch.ones(2).cuda()
    ops = torch.ops.sparse_aasist
    for layer in ((weight.cpu(), bias, None), (weight, bias.cpu(), None), (weight, bias, x.cpu())):
        with pytest.raises(RuntimeError, match="device of x"):
            ops.topk_linear(x, 1, 0, *layer, True)


# What follows concerns the public function.

BOTH = pytest.mark.parametrize("function", [topk_linear, topk_linear_reference])


def need_kernel() -> None:
    if not _extension.has_kernel("topk_linear", "cpu"):
        pytest.skip("this build has no cpu kernels")


@BOTH
def test_is_topk_and_a_linear_layer(function: Function) -> None:
    x, layer = torch.randn(4, 6, 50), torch.nn.Linear(50, 3)
    weight = layer.weight.t().contiguous().t()  # another layout
    expected = layer(topk_activation(x, 8))
    torch.testing.assert_close(function(x, 8, weight, layer.bias), expected)
    output, activation = function(x, 8, weight, layer.bias, return_activation=True)
    torch.testing.assert_close(output, expected)
    assert torch.equal(activation, topk_activation(x, 8))
    with torch.no_grad():
        assert torch.equal(function(x, 8, weight, layer.bias), output)


@BOTH
@pytest.mark.parametrize("by", ["value", "abs", "relu"])
def test_gradcheck(function: Function, by: str) -> None:
    # Distinct magnitudes, far apart: no finite difference crosses a tie.
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    x = ((order + 1.0) * torch.where(order % 3 == 0, -1, 1)).double().view(2, 12).requires_grad_()
    weight = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(2, 12, dtype=torch.float64)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return function(x, 5, weight, bias, by=by, scale=scale, return_activation=True)

    assert torch.autograd.gradcheck(call, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *a: call(*a)[1], (x, weight, bias))


def test_frozen_parts_get_no_gradient() -> None:
    x, weight, bias = torch.randn(3, 9), torch.randn(2, 9, requires_grad=True), torch.randn(2)
    (got,) = torch.autograd.grad(topk_linear(x, 4, weight, bias).sum(), weight)
    torch.testing.assert_close(got, topk_activation(x, 4).sum(0).expand(2, 9))
    assert not topk_linear(x, 4, weight.detach(), bias).requires_grad


def test_an_activation_that_depends_on_nothing_needs_no_gradient() -> None:
    x, layer = torch.randn(3, 9), torch.nn.Linear(9, 2)
    for name in ("compiled" if _extension.load() else "reference", "reference"):
        with backend(name):
            got = topk_linear(x, 4, layer.weight, layer.bias, return_activation=True)
        assert got.output.requires_grad and not got.activation.requires_grad


def test_forward_mode() -> None:
    x, layer = torch.randn(3, 9), torch.nn.Linear(9, 2).requires_grad_(False)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        output = topk_linear(dual, 4, layer.weight, layer.bias)
        got = torch.autograd.forward_ad.unpack_dual(output).tangent
    kept = topk_activation(x, 4) != 0
    torch.testing.assert_close(got, kept.float() @ layer.weight.t())


def test_second_gradients_are_refused_by_the_kernels() -> None:
    need_kernel()
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((3, 9), (2, 9), (2,)))
    loss = topk_linear(x, 4, weight, bias).pow(2).sum()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    with backend("reference"):
        loss = topk_linear(x, 4, weight, bias).pow(2).sum()
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        dx.sum().backward()


def test_is_deterministic_for_any_number_of_threads() -> None:
    tensors = problem(3000, 160, 2, torch.float32)
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            arguments = [tensors[n] for n in ("weight", "bias", "scale", "grad_output")]
            implementation = TopkFunctions("compiled" if _extension.load() else "reference")
            runs.append(implementation.linear(tensors["x"], 20, "value", *arguments, None))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_raw_ops_pass_opcheck() -> None:
    need_kernel()
    tensors = problem(3, 10, 2, torch.float32)
    x, weight, bias, scale = (tensors[n] for n in ("x", "weight", "bias", "scale"))
    topk_linear(x, 4, weight, bias)  # registers the fakes
    ops = torch.ops.sparse_aasist
    for given, dense in ((None, False), (scale, True)):
        torch.library.opcheck(ops.topk_linear.default, (x, 4, 2, weight, bias, given, dense))
        _, _, values, coded = ops.topk_linear(x, 4, 2, weight, bias, given, dense)
        grads = (tensors["grad_output"], tensors["grad_activation"] if dense else None)
        for wants in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(
                ops.topk_linear_backward.default, (*grads, values, coded, weight, given, *wants)
            )


def test_raw_ops_refuse_what_would_break_them() -> None:
    need_kernel()
    x, weight, bias = torch.ones(2, 3), torch.ones(2, 3), torch.ones(2)
    topk_linear(x, 1, weight, bias)
    ops = torch.ops.sparse_aasist
    wide = torch.ones(1025, 3)
    for message, arguments in (
        ("k must be in 1", (x, 4, 0, weight, bias, None, True)),
        ("weight must be", (x, 1, 0, torch.ones(2, 4), bias, None, True)),
        ("bias must be", (x, 1, 0, weight, torch.ones(3), None, True)),
        ("weight must be", (x, 1, 0, wide, torch.ones(1025), None, True)),
        ("dtype and device of x", (x, 1, 0, weight.double(), bias, None, True)),
        ("scale must have", (x, 1, 0, weight, bias, torch.ones(3, 2), True)),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.topk_linear(*arguments)
    _, _, values, coded = ops.topk_linear(x, 1, 0, weight, bias, None, False)
    grad = torch.ones(2, 2)
    for message, arguments in (
        ("does not fit", (torch.ones(3, 2), None, values, coded, weight, None)),
        ("does not fit", (grad, torch.ones(2, 4), values, coded, weight, None)),
        ("does not fit", (grad, None, torch.ones(2, 2), coded, weight, None)),
        ("must be int32", (grad, None, values, coded.long(), weight, None)),
        ("scale must have", (grad, None, values, coded, weight, torch.ones(3, 2))),
        ("weight must be", (grad, None, values, coded, bias, None)),
        ("weight must be", (torch.ones(2, 0), None, values, coded, torch.ones(0, 3), None)),
        ("weight must be", (torch.ones(2, 1025), None, values, coded, wide, None)),
        ("k must be in 1", (grad, None, values, coded, torch.ones(2, 0), None)),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.topk_linear_backward(*arguments, True, True)


@pytest.mark.slow
def test_compiles_as_one_graph_and_exports() -> None:
    need_kernel()

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(12, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return topk_linear(x, 3, self.layer.weight, self.layer.bias, return_activation=True)

    head, x = Head(), torch.randn(4, 12, requires_grad=True)
    compiled = torch.compile(head, fullgraph=True)
    grads = []
    for run in (head, compiled):
        output, activation = run(x)
        loss = output.pow(2).sum() + activation.sum()
        grads.append(torch.autograd.grad(loss, (x, *head.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    batch = torch.export.Dim("batch")
    program = torch.export.export(head, (x.detach(),), dynamic_shapes=({0: batch},))
    assert "sparse_aasist.topk_linear" in program.graph_module.code
    more = torch.randn(9, 12)
    assert torch.equal(program.module()(more)[0], head(more).output)


def test_functional_transforms() -> None:
    x, layer = torch.randn(5, 12), torch.nn.Linear(12, 2)
    run = torch.func.vmap(lambda row: topk_linear(row, 3, layer.weight, layer.bias))
    assert torch.equal(run(x), topk_linear(x, 3, layer.weight, layer.bias))


def test_autocast_casts_the_layer_to_the_dtype_of_x() -> None:
    layer = torch.nn.Linear(12, 2)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(5, 12, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = topk_linear(x, 3, layer.weight, layer.bias)
        assert got.dtype == dtype
        assert torch.equal(got, topk_linear(x, 3, layer.weight.to(dtype), layer.bias.to(dtype)))
        (grad,) = torch.autograd.grad(got.float().sum(), layer.weight)
        assert grad.dtype == torch.float32


X, WEIGHT, BIAS = torch.ones(4, 5), torch.ones(2, 5), torch.ones(2)
BAD_ARGUMENTS = [
    ({"k": 0}, ValueError, r"k must be in 1\.\.5 .*got 0"),
    ({"x": X.long()}, TypeError, "x must be float32"),
    ({"by": "max"}, ValueError, "by must be one of"),
    ({"weight": [1.0]}, TypeError, "weight must be a tensor, got list"),
    ({"weight": torch.ones(2, 4)}, ValueError, r"weight must be \(C, 5\) .*got \(2, 4\)"),
    ({"weight": torch.ones(5)}, ValueError, r"weight must be \(C, 5\) .*got \(5,\)"),
    ({"weight": torch.ones(0, 5), "bias": torch.ones(0)}, ValueError, "must have 1..1,024 rows, g"),
    ({"weight": torch.ones(1025, 5)}, ValueError, "must have 1..1,024 rows, got 1,025"),
    ({"weight": WEIGHT.double()}, TypeError, "weight must have the dtype of x, torch.float32"),
    ({"bias": torch.ones(3)}, ValueError, r"bias must be \(2,\) .*got \(3,\)"),
    ({"bias": BIAS.half()}, TypeError, "bias must have the dtype of x"),
    ({"bias": None}, TypeError, "bias must be a tensor, got NoneType"),
    ({"bias": BIAS.to("meta")}, ValueError, "bias is on meta but x is on cpu"),
    ({"scale": torch.ones(5)}, ValueError, r"scale must have the shape of x, \(4, 5\), got \(5,\)"),
    ({"scale": torch.ones(4, 5, requires_grad=True)}, ValueError, "scale is a constant"),
]


@BOTH
@pytest.mark.parametrize(("changed", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(
    function: Function, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {"x": X, "k": 2, "weight": WEIGHT, "bias": BIAS} | changed
    with pytest.raises(error, match=message):
        function(**arguments)
