"""topk_activation: every implementation against one independent oracle, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import BITS, ON_DEVICE, SCHEDULES, bits
from measure import peak_memory
from topk_implementations import (
    TopkFunctions,
    TopkSanitized,
    assert_same_selection,
    expected_selection,
)
from torch import Tensor

from sparse_aasist import _extension
from sparse_aasist.ops import topk_activation, topk_activation_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RULES = ("value", "abs", "relu")
# Either side of every border: a vector, a warp's groups, a warp and a block, a candidate buffer.
SIZES = (1, 2, 31, 64, 100, 129, 160, 320, 385, 1000, 1024, 1025, 2048, 2051)
Implementation = TopkFunctions | TopkSanitized
Function = Callable[..., Tensor]


def random_rows(rows: int, dim: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + dim)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype)


def check(
    implementation: Implementation, x: Tensor, k: int, by: str, with_grad: bool = True
) -> None:
    """Hold all outputs to the oracle, and the gradient of the dense and of the compact form."""
    grad = grad_values = None
    if with_grad:
        grad = random_rows(x.numel() // x.shape[-1], x.shape[-1], x.dtype, 1).reshape(x.shape)
        grad_values = random_rows(x.numel() // x.shape[-1], k, x.dtype, 2)
        grad_values = grad_values.reshape(*x.shape[:-1], k)
    got = implementation.select(x, k, by, grad, grad_values)
    assert_same_selection(got, expected_selection(x, k, by, grad, grad_values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", SIZES)
def test_random_rows(topk: Implementation, dim: int, dtype: torch.dtype) -> None:
    x = random_rows(3, dim, dtype)
    for k in sorted({1, min(20, dim), max(1, dim // 2), max(1, dim - 1), dim}):
        for by in RULES:
            check(topk, x, k, by)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("dim", "k"), [(4097, 50), (16_384, 100), (65_536, 100), (131_072, 3000)])
def test_long_rows(topk: Implementation, dim: int, k: int, dtype: torch.dtype) -> None:
    x = random_rows(2, dim, dtype)
    x[1] = x[1].sort().values  # every entry beats those before it
    check(topk, x, k, "value")
    check(topk, x, k, "relu", with_grad=False)


@pytest.mark.parametrize("dim", [160, 3000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_and_rows_of_one_value(topk: Implementation, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    few = torch.randint(-2, 3, (4, dim), generator=generator).to(dtype)
    one = torch.tensor([0.0, -0.0, 2.5, -2.5, float("nan"), float("-inf")], dtype=dtype)
    rows = torch.cat([few, one[:, None].expand(-1, dim)])
    # Post-ReLU rows: mostly zeros, fewer positive ones than k.
    rows = torch.cat([rows, (random_rows(1, dim, dtype) - 2.5).clamp(min=0)])
    for k in (1, 20, dim // 2, dim - 1, dim):
        for by in RULES:
            check(topk, rows, k, by, with_grad=k == 20)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(topk: Implementation, dtype: torch.dtype) -> None:
    nan, inf, tiny = float("nan"), float("inf"), torch.finfo(dtype).tiny / 4
    x = torch.tensor(
        [
            [0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0],
            [-0.0, 0.0, -1.0, -0.0, 0.0, -2.0, tiny],
            [-3.0, 3.0, -3.0, 3.0, 1.0, -1.0, 3.0],
            [nan, 1.0, inf, -inf, nan, inf, -nan],
            [-nan, -nan, nan, nan, nan, -nan, nan],
            [-inf, inf, -inf, inf, 0.0, tiny, -tiny],
            [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0],
        ],
        dtype=torch.float64,
    ).to(dtype)
    # Conversions drop payloads: give one NaN another pattern by hand.
    x.view(BITS[x.element_size()])[4, 2] = -3
    for k in range(1, 8):
        for by in RULES:
            check(topk, x, k, by)


def test_special_values_in_a_long_row(topk: Implementation) -> None:
    x = random_rows(3, 2500, torch.float32)
    x[0, ::100] = float("nan")
    x[1, ::70] = float("inf")
    x[1, 3::70] = -float("nan")
    x[2] = float("-inf")
    for k in (5, 25, 40, 2499):
        for by in RULES:
            check(topk, x, k, by)


@pytest.mark.parametrize("dim", [1000, 131_071])
@pytest.mark.parametrize(
    ("dtype", "by"),
    [(torch.float32, "value"), (torch.bfloat16, "relu"), (torch.float64, "abs")],
    ids=str,
)
def test_outputs_larger_than_the_caches(
    topk: Implementation, dim: int, dtype: torch.dtype, by: str
) -> None:
    """They are written past the caches, where rows begin at any address."""
    if isinstance(topk, TopkSanitized) and topk.where[0] == ON_DEVICE:
        pytest.skip("device code writes all rows alike, and these would take minutes")
    rows = (33 << 20) // (dim * dtype.itemsize)
    x, grad = torch.randn(rows, dim).to(dtype), torch.randn(rows, dim).to(dtype)
    x[::7] -= 3  # fewer positive entries than k in some rows
    got = topk.select(x, 50, by, grad)
    assert_same_selection(got, TopkFunctions("reference").select(x, 50, by, grad))


def test_gradients_reach_what_was_kept_only(topk: Implementation) -> None:
    # Kept zeros; gradients that are not finite, kept and dropped.
    x = torch.tensor([[0.0, -1.0, 0.0, 0.0, -1.0], [5.0, -6.0, 5.0, 5.0, 7.0]])
    grad = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, float("nan"), 8.0, float("inf"), 9.0]])
    grad_values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for by in RULES:
        for grads in ((grad, None), (None, grad_values)):
            got = topk.select(x, 2, by, *grads)
            assert_same_selection(got, expected_selection(x, 2, by, *grads))


@pytest.mark.parametrize("dim", [5, 131, 2100])
def test_rows_read_in_place(topk: Implementation, dim: int) -> None:
    base = random_rows(7, dim + 3, torch.float32)
    grad = random_rows(dim, 7, torch.float32)
    for x in (base[:, 1 : dim + 1], base[::3, 2 : dim + 2], base[:1, :dim].expand(7, dim)):
        for g in (grad.t()[: len(x)], torch.ones(1).expand(len(x), dim), None):
            got = topk.select(x, 3, "value", g)
            assert_same_selection(got, expected_selection(x, 3, "value", g))


@pytest.mark.parametrize("k", [1, 8])
def test_empty_batch(topk: Implementation, k: int) -> None:
    for shape in ((0, 8), (3, 0, 8)):
        x = torch.empty(shape)
        got = topk.select(x, k, "value", torch.empty(shape), None)
        assert got.activation.shape == shape and got.dx is not None and got.dx.shape == shape
        assert got.values.shape == got.indices.shape == (*shape[:-1], k)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_row(topk: Implementation, data: st.DataObject) -> None:
    element = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, float("nan")]))
    row = data.draw(st.lists(element, min_size=1, max_size=200))
    k = data.draw(st.integers(1, len(row)))
    by = data.draw(st.sampled_from(RULES))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = torch.tensor([row], dtype=torch.float64).to(dtype)
    check(topk, x, k, by)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dim", [129, 2500])
def test_device_code_in_any_order_of_threads(topk_program: object, dim: int, schedule: str) -> None:
    device_code = TopkSanitized(topk_program, ON_DEVICE, schedule)
    for k in (20, dim // 2):
        check(device_code, random_rows(2, dim, torch.float32), k, "value")
        check(device_code, random_rows(2, dim, torch.float32).round(), k, "abs")


def test_half_precision_sums_round_as_torch_does(topk: Implementation) -> None:
    """Through the gradient, which is a sum: all patterns of both formats, also subnormal."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        grad = patterns.view(dtype)
        grad = grad[grad.isfinite()][None]
        other = grad[:, torch.randperm(grad.shape[1], generator=torch.Generator().manual_seed(5))]
        x = torch.zeros(grad.shape, dtype=dtype)
        for grad_values in (torch.zeros_like(grad), other, grad / 3):
            dx = topk.select(x, x.shape[1], "value", grad, grad_values).dx
            expected = (grad.double() + grad_values.double()).to(dtype)
            assert dx is not None and torch.equal(bits(dx + 0), bits(expected + 0))


# What follows concerns the public function: layouts, tracing, arguments, backends.

BOTH = pytest.mark.parametrize("function", [topk_activation, topk_activation_reference])


@BOTH
def test_any_layout(function: Function) -> None:
    base = random_rows(60, 62, torch.float32)
    layouts = [base.t(), base[:, 1::2], base[0], base.view(4, 15, 62)]
    layouts += [base.view(4, 15, 62).transpose(0, 1), base.view(60, 2, 31)[:, 0]]
    for x in layouts:
        grad = torch.randn(x.shape)
        x = x.detach().requires_grad_()
        got = function(x, 9, by="abs", return_indices=True)
        (dx,) = torch.autograd.grad(got.activation, x, grad)
        expected = expected_selection(x, 9, "abs", grad)
        for tensor, wanted in zip((*got, dx), expected, strict=True):
            assert torch.equal(tensor, wanted)
        assert got.activation.is_contiguous()


@BOTH
@pytest.mark.parametrize("by", RULES)
def test_gradcheck(function: Function, by: str) -> None:
    # Distinct magnitudes, far apart: no finite difference crosses a tie.
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    x = ((order + 1.0) * torch.where(order % 3 == 0, -1, 1)).double().view(2, 12).requires_grad_()
    for call in (
        partial(function, k=5, by=by),
        lambda x: function(x, 5, by=by, return_indices=True)[:2],
        lambda x: function(x, 5, by=by, return_indices=True).values,
    ):
        assert torch.autograd.gradcheck(call, (x,))
        assert torch.autograd.gradgradcheck(call, (x,))


def test_unused_outputs_need_no_gradient() -> None:
    x = random_rows(3, 10, torch.float32).requires_grad_()
    out = topk_activation(x, 4, return_indices=True)
    assert not out.indices.requires_grad
    (alone,) = torch.autograd.grad(out.values.sum(), x, retain_graph=True)
    assert torch.equal(alone.bool(), torch.from_numpy(expected_mask(x, 4)))
    (unused,) = torch.autograd.grad(out.activation.sum() * 0 + x.sum(), x)
    assert torch.equal(unused, torch.ones_like(x))


def expected_mask(x: Tensor, k: int) -> np.ndarray:
    indices = expected_selection(x, k, "value").indices.long()
    return torch.zeros(x.shape, dtype=torch.bool).scatter(-1, indices, True).numpy()


def need_kernel(device_type: str) -> None:
    if not _extension.has_kernel("topk_activation", device_type):
        pytest.skip(f"this build has no {device_type} kernels")


def raw_ops() -> object:
    need_kernel("cpu")
    topk_activation(torch.ones(1, 2), 1)  # registers the fakes
    return torch.ops.sparse_aasist


def test_raw_ops_pass_opcheck() -> None:
    ops = raw_ops()
    for x in (random_rows(3, 10, torch.float32), random_rows(6, 5, torch.float64).t()):
        for rule in range(3):
            torch.library.opcheck(ops.topk_activation.default, (x, 4, rule))
            torch.library.opcheck(ops.topk_activation_compact.default, (x, 4, rule))
        _, values, coded = ops.topk_activation_compact(x, 4, 2)
        backward = ops.topk_activation_backward.default
        for grads in ((x, None), (None, values), (x, values)):
            torch.library.opcheck(backward, (*grads, coded, x.shape[1]))


def test_raw_ops_refuse_what_would_break_them() -> None:
    ops = raw_ops()
    for op in (ops.topk_activation, ops.topk_activation_compact):
        for x, k in ((torch.ones(2, 3), 0), (torch.ones(2, 3), 4), (torch.ones(2, 0), 1)):
            with pytest.raises(RuntimeError, match="k must be in 1"):
                op(x, k, 0)
        with pytest.raises(RuntimeError, match="last dimension"):
            op(torch.tensor(1.0), 1, 0)
        with pytest.raises(RuntimeError, match="must be float32"):
            op(torch.ones(2, 3, dtype=torch.int32), 1, 0)
        with pytest.raises(RuntimeError, match="no rule 3"):
            op(torch.ones(2, 3), 1, 3)
        with pytest.raises(RuntimeError, match="at most 131072"):
            op(torch.ones(1, 131_073), 1, 0)
    x, coded = torch.ones(2, 3), torch.zeros(2, 1, dtype=torch.int32)
    for message, arguments in (
        ("needs a gradient", (None, None, coded, 3)),
        ("does not fit", (torch.ones(2, 4), None, coded, 3)),
        ("do not fit", (x, torch.ones(2, 2), coded, 3)),
        ("do not fit", (x, torch.ones(2, 1).double(), coded, 3)),
        ("must be int32", (x, None, coded.long(), 3)),
        ("k must be in 1", (torch.ones(2, 0), None, coded, 0)),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.topk_activation_backward(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("by", RULES)
def test_compiles_as_one_graph(by: str) -> None:
    def both(x: Tensor) -> tuple[Tensor, ...]:
        return topk_activation(x, 3, by=by), *topk_activation(x, 2, by=by, return_indices=True)

    compiled = torch.compile(both, fullgraph=True)
    x = random_rows(4, 12, torch.float32).requires_grad_()
    got, expected = compiled(x), both(x)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    weights = random_rows(4, 12, torch.float32, 7)
    losses = [(t[0] * weights).sum() + (t[2] ** 2).sum() for t in (got, expected)]
    grads = [torch.autograd.grad(loss, x)[0] for loss in losses]
    assert torch.equal(*grads)
    with torch.no_grad():
        assert torch.equal(compiled(x)[0], expected[0])


@pytest.mark.slow
def test_exports_with_any_batch() -> None:
    need_kernel("cpu")

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return topk_activation(x, 3)

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Model(), (random_rows(4, 12, torch.float32),), dynamic_shapes=({0: batch},)
    )
    assert "sparse_aasist.topk_activation" in program.graph_module.code
    x = random_rows(9, 12, torch.float32)
    assert torch.equal(program.module()(x), topk_activation(x, 3))


def test_functional_transforms() -> None:
    x = random_rows(6, 8, torch.float32)
    function = partial(topk_activation, k=3)
    by_column = torch.func.vmap(function, in_dims=1, out_dims=1)(x)
    assert torch.equal(by_column, function(x.t()).t())
    per_sample = torch.func.vmap(torch.func.grad(lambda row: function(row).sum()))(x)
    mask = torch.from_numpy(expected_mask(x, 3))
    assert torch.equal(per_sample.bool(), mask)
    _, tangent = torch.func.jvp(function, (x,), (torch.full_like(x, 2.0),))
    assert torch.equal(tangent, torch.where(mask, 2.0, 0.0))


def test_forward_mode() -> None:
    x, tangent = random_rows(3, 8, torch.float32), random_rows(3, 8, torch.float32, 4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        got = torch.autograd.forward_ad.unpack_dual(topk_activation(dual, 3)).tangent
    assert got is not None
    assert torch.equal(got, torch.where(torch.from_numpy(expected_mask(x, 3)), tangent, 0.0))


def test_autocast_leaves_the_dtype_alone() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = random_rows(2, 8, dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(topk_activation(x, 3), topk_activation_reference(x, 3))


def test_flushed_subnormals_stay_apart() -> None:
    """A process that treats subnormals as zero must not see ties among them."""
    tiny = torch.finfo(torch.float32).tiny / 8
    x = torch.tensor([[0.0, tiny, 2 * tiny, -tiny]])
    expected = expected_selection(x, 1, "value").indices
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    for function in (topk_activation, topk_activation_reference):
        assert torch.equal(function(x, 1, return_indices=True).indices, expected)


@pytest.mark.parametrize("dim", [160, 4096])
def test_memory_of_a_training_step(dim: int) -> None:
    """Beyond x: y, its gradient, dx and the compact pair; nothing else of size D."""
    need_kernel("cpu")
    rows, k = 64, 20
    x = torch.randn(rows, dim, requires_grad=True)

    def step() -> None:
        y = topk_activation(x, k)
        torch.autograd.grad(y, x, torch.ones_like(y))

    peak = peak_memory(step, "cpu")
    floats = 4 * rows * dim
    compact = 8 * rows * k
    assert 3 * floats <= peak <= 3 * floats + compact + 4096


BAD_ARGUMENTS = [
    (torch.ones(2, 5), 0, "value", ValueError, r"k must be in 1\.\.5 .*got 0"),
    (torch.ones(2, 5), 6, "value", ValueError, r"k must be in 1\.\.5 .*got 6"),
    (torch.ones(2, 5), -1, "value", ValueError, "got -1"),
    (torch.ones(2, 5), 2.0, "value", TypeError, "k must be an int, got 2.0"),
    (torch.ones(2, 5), True, "value", TypeError, "k must be an int, got True"),
    (torch.ones(2, 5), None, "value", TypeError, "k must be an int, got None"),
    (torch.ones(2, 5, dtype=torch.int64), 1, "value", TypeError, "got torch.int64"),
    (torch.ones(2, 5, dtype=torch.complex64), 1, "value", TypeError, "got torch.complex64"),
    (np.ones((2, 5), dtype=np.float32), 1, "value", TypeError, "must be a tensor, got ndarray"),
    (torch.ones(2, 0), 1, "value", ValueError, r"got shape \(2, 0\)"),
    (torch.tensor(1.0), 1, "value", ValueError, r"got shape \(\)"),
    (torch.ones(1, 131_073), 1, "value", ValueError, "at most 131,072, got 131,073"),
    (torch.ones(2, 5), 1, "magnitude", ValueError, "by must be one of value, abs, relu, got 'mag"),
]


@BOTH
@pytest.mark.parametrize(("x", "k", "by", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(
    function: Function, x: Tensor, k: int, by: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(x, k, by=by)
