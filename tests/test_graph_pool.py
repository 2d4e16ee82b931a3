"""graph_pool: every implementation against sorting in float64."""

from __future__ import annotations

import math

import pytest
import torch
from graph_implementations import (
    GraphFunctions,
    GraphSanitized,
    PoolResult,
    assert_close_to_largest,
    expected_pool,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import ON_DEVICE, SCHEDULES
from torch import Tensor

from sparse_aasist.ops import backend, graph_pool, graph_pool_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Implementation = GraphFunctions | GraphSanitized


def problem(
    batch: int, nodes: int, dim: int, dtype: torch.dtype, ratio: float, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed + nodes)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    kept = max(int(nodes * ratio), 1)
    noise = torch.bernoulli(torch.full((batch, nodes, dim), 0.7), generator=generator) / 0.7
    return {
        "h": randn(batch, nodes, dim),
        "weight": randn(1, dim) / math.sqrt(dim),
        "bias": randn(1),
        "scale": noise.to(dtype),
        "grad": randn(batch, kept, dim),
    }


def check(
    implementation: Implementation, tensors: dict[str, Tensor], ratio: float, scaled: bool = True
) -> PoolResult:
    h, weight, bias, scale, grad = tensors.values()
    arguments = (h, weight, bias, ratio, scale if scaled else None, grad)
    got = implementation.pool(*arguments)
    assert_close(got, expected_pool(*arguments), h.dtype)
    return got


def assert_close(got: PoolResult, expected: PoolResult, dtype: torch.dtype) -> None:
    """Sums are float64 and rounded once; those of float64 itself may cancel."""
    tolerance = 1e-13 if dtype is torch.float64 else 2 * torch.finfo(dtype).eps
    for name, tensor, wanted in zip(PoolResult._fields, got, expected, strict=True):
        assert_close_to_largest(tensor, wanted, dtype, tolerance, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "nodes", "dim", "ratio"),
    [
        *((1, 1, 1, 0.5), (2, 23, 64, 0.5), (3, 29, 64, 0.7), (2, 11, 32, 0.5)),
        *((1, 300, 5, 0.1), (2, 7, 129, 1.0), (2, 9, 8, 0.0), (70, 3, 2, 0.7)),
    ],
)
def test_random(
    graph: Implementation, batch: int, nodes: int, dim: int, ratio: float, dtype: torch.dtype
) -> None:
    tensors = problem(batch, nodes, dim, dtype, ratio)
    check(graph, tensors, ratio)
    check(graph, tensors, ratio, scaled=False)


def test_kept_count_is_that_of_the_published_code(graph: Implementation) -> None:
    # 29 * 0.7 = 20.299999999999997 in floating point.
    for nodes, ratio, kept in ((29, 0.7, 20), (23, 0.5, 11), (10, 0.3, 3), (1, 0.1, 1)):
        tensors = problem(1, nodes, 4, torch.float32, ratio)
        assert check(graph, tensors, ratio).out.shape == (1, kept, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_go_to_the_lowest_index(graph: Implementation, dtype: torch.dtype) -> None:
    """Scores saturate to 1, and fall to 0."""
    tensors = problem(1, 12, 2, dtype, 0.5)
    pattern = [100, 1, 100, -1, 100, -1000, 1, 100, 0, 0, 100, 100]
    tensors["h"][0, :, 0] = torch.tensor(pattern).to(dtype)
    tensors["h"][0, :, 1] = torch.arange(12).to(dtype)
    tensors["weight"][:] = torch.tensor([[1.0, 0.0]]).to(dtype)
    tensors["bias"][:] = 0
    got = check(graph, tensors, 0.5, scaled=False)
    assert got.out[0, :, 1].tolist() == [0, 2, 4, 7, 10, 11]


def test_most_nodes(graph: Implementation) -> None:
    # Sanitized code would take minutes for the most.
    nodes = 600 if isinstance(graph, GraphSanitized) else 4096
    check(graph, problem(1, nodes, 3, torch.float32, 0.5), 0.5)


def test_not_a_number_comes_first(graph: Implementation) -> None:
    tensors = problem(2, 9, 4, torch.float32, 0.4)
    clean = check(graph, tensors, 0.4)
    tensors["h"][1, 5, 2] = math.nan
    tensors["h"][1, 3, :] = -math.nan
    h, weight, bias, scale, grad = tensors.values()
    got = graph.pool(h, weight, bias, 0.4, scale, grad)
    assert torch.equal(got.out[0], clean.out[0]) and torch.equal(got.dh[0], clean.dh[0])
    assert got.out[1, :2].isnan().all() and not got.out[1, 2].isnan().any()
    assert got.dh[1, [3, 5]].isnan().any() and not got.dh[1, [0, 1, 2, 4, 6, 7, 8]].isnan().any()


def test_empty_batch(graph: Implementation) -> None:
    tensors = {
        name: tensor[:0] if tensor.dim() == 3 else tensor
        for name, tensor in problem(1, 6, 4, torch.float32, 0.5).items()
    }
    got = check(graph, tensors, 0.5)
    assert got.out.shape == (0, 3, 4) and (got.dweight == 0).all() and (got.dbias == 0).all()


def test_strided_inputs(graph: Implementation) -> None:
    if isinstance(graph, GraphSanitized):
        pytest.skip("kernels take contiguous tensors; the functions make them so")
    tensors = problem(3, 10, 12, torch.float32, 0.5)
    tensors["h"] = torch.randn(3, 12, 20).transpose(1, 2)[:, ::2]
    tensors["grad"] = tensors["grad"][:1, :1].expand(3, 5, 12)
    check(graph, tensors, 0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_in_any_order_of_threads(graph_program: object, schedule: str) -> None:
    check(
        GraphSanitized(graph_program, ON_DEVICE, schedule),
        problem(5, 40, 24, torch.float32, 0.6),
        0.6,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_sizes_and_ties(data: st.DataObject) -> None:
    batch, nodes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 60))
    dim, ratio = data.draw(st.integers(1, 20)), data.draw(st.floats(0, 1))
    tensors = problem(batch, nodes, dim, torch.float32, ratio)
    # Few different scores.
    tensors["h"] = tensors["h"].round() * data.draw(st.sampled_from([1.0, 50.0]))
    tensors["weight"] = tensors["weight"].sign()
    check(GraphFunctions("compiled"), tensors, ratio)


def test_gradcheck() -> None:
    h, weight, bias, scale, _ = problem(2, 6, 4, torch.float64, 0.5).values()
    inputs = [t.requires_grad_() for t in (h, weight, bias)]
    with backend("compiled"):
        assert torch.autograd.gradcheck(lambda *t: graph_pool(*t, 0.5, scale=scale), inputs)


def test_many_nodes_run_as_the_reference() -> None:
    h, weight, bias, scale, _ = problem(1, 4097, 2, torch.float32, 0.5).values()
    with backend("compiled"):
        got = graph_pool(h, weight, bias, 0.5, scale=scale)
    assert torch.equal(got, graph_pool_reference(h, weight, bias, 0.5, scale=scale))


def test_compiles_as_one_graph_and_exports() -> None:
    h, weight, bias, scale, grad = problem(2, 9, 4, torch.float32, 0.5).values()
    inputs = [t.requires_grad_() for t in (h, weight, bias)]

    def pool(*inputs: Tensor) -> Tensor:
        return graph_pool(*inputs, 0.5, scale=scale)

    out, compiled = pool(*inputs), torch.compile(pool, fullgraph=True)(*inputs)
    assert torch.equal(compiled, out)
    expected = torch.autograd.grad(out, inputs, grad)
    for got, wanted in zip(torch.autograd.grad(compiled, inputs, grad), expected, strict=True):
        assert torch.equal(got, wanted)

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return graph_pool(*inputs, 0.5)

    with torch.no_grad():
        program = torch.export.export(Module(), tuple(t.detach() for t in inputs))
        assert "sparse_aasist.graph_pool" in program.graph_module.code


def test_meta_tensors_have_shapes() -> None:
    h, weight, bias, _, _ = (t.to("meta") for t in problem(2, 9, 4, torch.float32, 0.5).values())
    assert graph_pool(h, weight, bias, 0.5).shape == (2, 4, 4)


def test_raw_ops_are_well_behaved() -> None:
    h, weight, bias, scale, grad = problem(2, 9, 4, torch.float32, 0.5).values()
    ops, utilities = torch.ops.sparse_aasist, ("test_schema", "test_faketensor")
    arguments = (h, weight, bias, 4, scale)
    torch.library.opcheck(ops.graph_pool.default, arguments, test_utils=utilities)
    _, scores, indices = ops.graph_pool(*arguments)
    backward = (grad, scores, indices, h, weight, scale)
    torch.library.opcheck(ops.graph_pool_backward.default, backward, test_utils=utilities)
    with pytest.raises(RuntimeError, match=r"kept must be in 1\.\.9, got 10"):
        ops.graph_pool(h, weight, bias, 10, scale)
    with pytest.raises(RuntimeError, match="do not fit h"):
        ops.graph_pool_backward(grad, scores.float(), indices, h, weight, scale)
    with pytest.raises(RuntimeError, match="do not fit h"):
        ops.graph_pool_backward(grad[:, :2], scores, indices, h, weight, scale)


def test_under_function_transforms_it_runs_as_the_reference() -> None:
    h, weight, bias, _, _ = problem(3, 7, 4, torch.float64, 0.5).values()
    per_clip = torch.func.vmap(
        lambda clip: graph_pool(clip.unsqueeze(0), weight, bias, 0.5).squeeze(0)
    )(h)
    torch.testing.assert_close(per_clip, graph_pool(h, weight, bias, 0.5))


def test_autocast_does_not_change_h() -> None:
    h, weight, bias, _, _ = problem(2, 7, 4, torch.bfloat16, 0.5).values()
    expected = graph_pool(h, weight, bias, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = graph_pool(h, weight.float(), bias.float(), 0.5)
    assert got.dtype is torch.bfloat16 and torch.equal(got, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"h": [1.0]}, TypeError, "h must be a tensor, got list"),
        ({"h": torch.zeros(2, 6, 4, dtype=torch.int64)}, TypeError, "h must be float32"),
        ({"h": torch.zeros(6, 4)}, ValueError, "h must be .batch, nodes, dim"),
        ({"h": torch.zeros(2, 0, 4)}, ValueError, "h must be .batch, nodes, dim"),
        ({"weight": torch.zeros(4)}, ValueError, "weight must be .1, 4., got .4,."),
        (
            {"weight": torch.zeros(1, 4).half()},
            TypeError,
            "weight must have the dtype of h",
        ),
        ({"bias": torch.zeros(1, device="meta")}, ValueError, "bias is on meta but h is on cpu"),
        ({"scale": torch.zeros(2, 6, 1)}, ValueError, "scale must be .2, 6, 4., got .2, 6, 1."),
        (
            {"scale": torch.ones(2, 6, 4, requires_grad=True)},
            ValueError,
            "scale is a constant: it must not require a gradient",
        ),
        ({"ratio": 1.5}, ValueError, "ratio must be in 0..1, got 1.5"),
        ({"ratio": math.nan}, ValueError, "ratio must be in 0..1, got nan"),
        ({"ratio": "half"}, TypeError, "ratio must be a number, got 'half'"),
    ],
)
def test_wrong_arguments(change: dict, error: type, message: str) -> None:
    arguments = {
        "h": torch.zeros(2, 6, 4),
        "weight": torch.zeros(1, 4),
        "bias": torch.zeros(1),
        "ratio": 0.5,
    } | change
    for function in (graph_pool, graph_pool_reference):
        with pytest.raises(error, match=message):
            function(**arguments)
