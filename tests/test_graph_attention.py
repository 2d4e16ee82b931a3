"""graph_attention and hetero_graph_attention: every implementation against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from graph_implementations import (
    Attention,
    AttentionResult,
    GraphFunctions,
    GraphSanitized,
    assert_close_to_largest,
    call,
    expected_attention,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import ON_DEVICE, SCHEDULES
from measure import peak_memory
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from sparse_aasist.ops import (
    Master,
    backend,
    graph_attention,
    graph_attention_reference,
    hetero_graph_attention,
    hetero_graph_attention_reference,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Of the largest entry. Gradients in float32 are sums of up to thousands of terms that cancel, in
# the reference too; halves are rounded once, but for the gradient of a shared master, which is
# summed over clips in the dtype itself.
TOLERANCES = {
    torch.float32: 4e-5,
    torch.float64: 1e-12,
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
}
Implementation = GraphFunctions | GraphSanitized


def problem(
    batch: int,
    nodes: int,
    dim: int,
    hidden: int,
    dtype: torch.dtype,
    *,
    hetero: bool = False,
    masters: int = 0,
    seed: int = 0,
) -> tuple[Attention, Tensor, Tensor | None]:
    """Return random inputs with live attention, and gradients of the outputs."""
    generator = torch.Generator().manual_seed(seed + nodes)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    inputs = Attention(
        randn(batch, nodes, dim),
        randn(hidden, dim, scale=2 / math.sqrt(dim)),
        randn(hidden, scale=0.3),
        randn(3 if hetero else 1, hidden),
    )
    if masters:
        inputs = inputs._replace(
            master=randn(masters, 1, dim),
            master_weight=randn(hidden, dim, scale=2 / math.sqrt(dim)),
            master_bias=randn(hidden, scale=0.3),
            master_vector=randn(1, hidden),
        )
    return inputs, randn(batch, nodes, dim), randn(batch, 1, dim) if masters else None


def check(
    implementation: Implementation,
    inputs: Attention,
    num_type1: int,
    grad: Tensor,
    grad_summary: Tensor | None,
    tolerance: float | None = None,
) -> None:
    arguments = (inputs, num_type1, 0.8, grad, grad_summary)
    got, expected = implementation.attend(*arguments), expected_attention(*arguments)
    assert_close(got, expected, inputs.x.dtype, tolerance)


def assert_close(
    got: AttentionResult,
    expected: AttentionResult,
    dtype: torch.dtype,
    tolerance: float | None = None,
) -> None:
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    pairs = [("nodes", got.nodes, expected.nodes), ("summary", got.summary, expected.summary)]
    names = [f"d{name}" for name in Attention._fields]
    pairs += list(zip(names, got.gradients, expected.gradients, strict=False))
    assert len(got.gradients) == len(expected.gradients)
    for name, tensor, wanted in pairs:
        if wanted is None:
            assert tensor is None, name
            continue
        assert_close_to_largest(tensor, wanted, dtype, tolerance, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "nodes", "dim", "hidden"),
    [(1, 1, 1, 1), (2, 5, 3, 7), (1, 23, 64, 64), (3, 15, 32, 32), (1, 31, 33, 17)],
)
def test_random(
    graph: Implementation, batch: int, nodes: int, dim: int, hidden: int, dtype: torch.dtype
) -> None:
    inputs, grad, _ = problem(batch, nodes, dim, hidden, dtype)
    check(graph, inputs, nodes, grad, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_type1", [0, 1, 20, 31])
def test_two_types_and_a_master(graph: Implementation, num_type1: int, dtype: torch.dtype) -> None:
    for masters in (0, 1, 2):
        inputs, grad, grad_summary = problem(
            2, 31, 64, 32, dtype, hetero=True, masters=masters, seed=num_type1
        )
        check(graph, inputs, num_type1, grad, grad_summary)


def test_more_clips_than_tasks_and_more_pairs_than_a_chunk(graph: Implementation) -> None:
    inputs, grad, grad_summary = problem(130, 3, 4, 5, torch.float32, hetero=True, masters=1)
    check(graph, inputs, 2, grad, grad_summary)
    inputs, grad, _ = problem(1, 70, 8, 8, torch.float32)
    check(graph, inputs, 70, grad, None)
    # On a GPU these are cut into groups of two and of eight rows, and runs of several.
    for batch, nodes in ((150, 5), (260, 8)):
        inputs, grad, _ = problem(batch, nodes, 3, 7, torch.float32)
        check(graph, inputs, nodes, grad, None)


def test_widest(graph: Implementation) -> None:
    inputs, grad, grad_summary = problem(1, 10, 128, 128, torch.float32, hetero=True, masters=1)
    check(graph, inputs, 4, grad, grad_summary)


def test_empty_batch(graph: Implementation) -> None:
    for masters in (0, 1):
        inputs, grad, grad_summary = problem(
            1, 4, 8, 8, torch.float32, hetero=True, masters=masters
        )
        inputs = inputs._replace(x=inputs.x[:0])
        grad_summary = None if grad_summary is None else grad_summary[:0]
        result = graph.attend(inputs, 2, 1.0, grad[:0], grad_summary)
        assert result.nodes.shape == (0, 4, 8)
        for gradient, tensor in zip(result.gradients, inputs.given(), strict=True):
            assert gradient.shape == tensor.shape and (gradient == 0).all()


def test_not_a_number_stays_in_its_clip(graph: Implementation) -> None:
    inputs, grad, grad_summary = problem(3, 9, 8, 8, torch.float32, hetero=True, masters=3)
    clean = graph.attend(inputs, 4, 1.0, grad, grad_summary)
    inputs.x[1, 2, 3] = math.nan
    got = graph.attend(inputs, 4, 1.0, grad, grad_summary)
    # Every node reads the one that is not a number.
    assert got.nodes[1].isnan().all(1).any() and got.nodes[1, :, 3].isnan().all()
    assert got.summary[1].isnan().any() and got.gradients[0][1].isnan().any()
    for clip in (0, 2):
        assert torch.equal(got.nodes[clip], clean.nodes[clip])
        assert torch.equal(got.summary[clip], clean.summary[clip])
        assert torch.equal(got.gradients[0][clip], clean.gradients[0][clip])
    # The weights are shared by all clips.
    assert got.gradients[1].isnan().any()


@pytest.mark.parametrize("hidden", [4, 16, 20])
def test_infinite_products(graph: Implementation, hidden: int) -> None:
    """tanh of infinity is 1: results stay finite where those of the reference do."""
    inputs, grad, _ = problem(1, 6, 8, hidden, torch.float32)
    # Its square overflows.
    inputs.x[0, 0, 0] = 1e20
    got = graph.attend(inputs, 6, 1.0, grad, None)
    expected = GraphFunctions("reference").attend(inputs, 6, 1.0, grad, None)
    torch.testing.assert_close(got.nodes, expected.nodes)
    assert got.nodes.isfinite().all()


def test_most_nodes(graph: Implementation) -> None:
    # Sanitized code would take minutes for the most.
    nodes = 300 if isinstance(graph, GraphSanitized) else 1024
    inputs, grad, grad_summary = problem(1, nodes, 3, 5, torch.float32, hetero=True, masters=1)
    arguments = (inputs, 400 % nodes, 0.8, grad, grad_summary)
    wide = Attention(*(t.double() for t in inputs))
    expected = GraphFunctions("reference").attend(
        wide, *arguments[1:3], grad.double(), grad_summary.double()
    )
    assert_close(graph.attend(*arguments), expected, torch.float32, 2e-4)


def test_large_scores_do_not_overflow(graph: Implementation) -> None:
    inputs, grad, _ = problem(1, 12, 16, 16, torch.float32)
    inputs = inputs._replace(vectors=inputs.vectors * 1000)
    result = graph.attend(inputs, 12, 1.0, grad, None)
    assert result.nodes.isfinite().all() and result.gradients[0].isfinite().all()
    wanted = expected_attention(inputs, 12, 1.0, grad, None)
    torch.testing.assert_close(result.nodes.double(), wanted.nodes, atol=1e-2, rtol=1e-2)


def test_saturated_hidden_layer(graph: Implementation) -> None:
    """tanh near 0 and near 1: gradients are then differences of nearly equal numbers."""
    inputs, grad, _ = problem(1, 12, 16, 16, torch.float32)
    for scale in (1e-4, 5.0, 1e4):
        check(graph, inputs._replace(weight=inputs.weight * scale), 12, grad, None, 1e-3)


def test_strided_inputs(graph: Implementation) -> None:
    if isinstance(graph, GraphSanitized):
        pytest.skip("kernels take contiguous tensors; the functions make them so")
    inputs, grad, _ = problem(4, 10, 12, 6, torch.float32)
    wide = torch.randn(4, 12, 20, generator=torch.Generator().manual_seed(0))
    x = wide.transpose(1, 2)[:, ::2]
    strided = inputs._replace(x=x, weight=inputs.weight.t().contiguous().t())
    check(graph, strided, 10, grad.transpose(1, 2).contiguous().transpose(1, 2), None)


def test_one_result_at_any_number_of_threads() -> None:
    inputs, grad, grad_summary = problem(3, 40, 32, 32, torch.float32, hetero=True, masters=1)
    functions, threads = GraphFunctions("compiled"), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(functions.attend(inputs, 17, 1.0, grad, grad_summary))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other.nodes, results[0].nodes)
        for a, b in zip(other.gradients, results[0].gradients, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_in_any_order_of_threads(graph_program: object, schedule: str) -> None:
    device_code = GraphSanitized(graph_program, ON_DEVICE, schedule)
    inputs, grad, grad_summary = problem(2, 19, 40, 24, torch.float32, hetero=True, masters=1)
    check(device_code, inputs, 8, grad, grad_summary)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_sizes(data: st.DataObject) -> None:
    batch, nodes = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    dim, hidden = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    masters = data.draw(st.sampled_from([0, 1, batch]))
    inputs, grad, grad_summary = problem(
        batch, nodes, dim, hidden, torch.float64, hetero=True, masters=masters
    )
    num_type1 = data.draw(st.integers(0, nodes))
    temperature = data.draw(st.floats(0.3, 200))
    arguments = (inputs, num_type1, temperature, grad, grad_summary)
    got = GraphFunctions("compiled").attend(*arguments)
    assert_close(got, GraphFunctions("reference").attend(*arguments), torch.float64)


def test_gradcheck() -> None:
    inputs, _, _ = problem(2, 5, 4, 3, torch.float64, hetero=True, masters=1)
    tensors = [t.requires_grad_() for t in inputs.given()]
    with backend("compiled"):
        assert torch.autograd.gradcheck(lambda *t: call(Attention(*t), 2, 0.7), tensors)


def test_memory_is_that_of_all_pairs_alone() -> None:
    """Not of pairs times their width, which the reference holds several times."""
    inputs, grad, _ = problem(2, 100, 64, 64, torch.float32)
    x, weight, bias, vectors = (t.requires_grad_() for t in inputs.given())

    def step() -> object:
        out = graph_attention(x, weight, bias, vectors[0], 2.0)
        return torch.autograd.grad(out, (x, weight, bias), grad)

    with backend("compiled"):
        pairs = 4 * 2 * 100 * 100
        assert peak_memory(step, "cpu") < 2 * pairs + 10 * x.nbytes + 16 * weight.nbytes
    with backend("reference"):
        assert peak_memory(step, "cpu") > 3 * 64 * pairs


def test_references_are_public() -> None:
    inputs, _, _ = problem(2, 6, 8, 4, torch.float32, hetero=True, masters=1)
    x, weight, bias, vectors, *of_master = inputs
    master = Master(*of_master[:3], of_master[3][0])
    torch.testing.assert_close(
        graph_attention(x, weight, bias, vectors[0], 1.0),
        graph_attention_reference(x, weight, bias, vectors[0], 1.0),
    )
    torch.testing.assert_close(
        hetero_graph_attention(x, 2, weight, bias, vectors, 1.0, master),
        hetero_graph_attention_reference(x, 2, weight, bias, vectors, 1.0, master),
    )


def test_graphs_above_the_limits_run_as_the_reference() -> None:
    for nodes, dim, hidden in ((1025, 2, 2), (3, 129, 2), (3, 2, 129)):
        inputs, _, _ = problem(1, nodes, dim, hidden, torch.float32)
        with backend("compiled"):
            got, _ = call(inputs, nodes, 1.0)
        with backend("reference"):
            expected, _ = call(inputs, nodes, 1.0)
        assert torch.equal(got, expected)


def test_compiles_as_one_graph_and_exports() -> None:
    inputs, grad, grad_summary = problem(2, 6, 8, 4, torch.float32, hetero=True, masters=1)
    tensors = [t.requires_grad_() for t in inputs.given()]

    def attend(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return call(Attention(*tensors), 2, 0.7)

    compiled = torch.compile(attend, fullgraph=True)
    for function in (attend, compiled):
        out = function(*tensors)
        grads = torch.autograd.grad(out, tensors, (grad, grad_summary))
        if function is attend:
            expected = (*out, *grads)
    torch.testing.assert_close((*out, *grads), expected, rtol=0, atol=0)

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            return attend(*tensors)

    with torch.no_grad():
        program = torch.export.export(Module(), tuple(t.detach() for t in tensors))
        assert "sparse_aasist.graph_attention" in program.graph_module.code
        torch.testing.assert_close(program.module()(*tensors), expected[:2], rtol=0, atol=0)


def test_does_not_compile_for_every_number_of_nodes() -> None:
    inputs, _, _ = problem(2, 40, 8, 4, torch.float32, hetero=True, masters=1)
    torch._dynamo.reset()
    counter = CompileCounter()

    def attend(x: Tensor, *of_layer: Tensor) -> tuple[Tensor, Tensor]:
        return call(Attention(x, *of_layer), x.shape[1] // 2, 0.7)

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend=counter)
    for nodes in (40, 7, 31, 12, 25, 18):
        x = inputs.x[:, :nodes]
        torch.testing.assert_close(compiled(x, *inputs[1:]), attend(x, *inputs[1:]))
    assert counter.frame_count <= 2


def test_meta_tensors_have_shapes() -> None:
    inputs, _, _ = problem(2, 6, 8, 4, torch.float32, hetero=True, masters=1)
    nodes, summary = call(Attention(*(t.to("meta") for t in inputs)), 2, 0.7)
    assert nodes.shape == (2, 6, 8) and summary.shape == (2, 1, 8)


def test_raw_ops_are_well_behaved() -> None:
    inputs, grad, grad_summary = problem(2, 6, 8, 4, torch.float32, hetero=True, masters=1)
    ops = torch.ops.sparse_aasist
    tensors = list(inputs)
    arguments = (*tensors[:4], 2, 0.7, *tensors[4:])
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.graph_attention.default, arguments, test_utils=utilities)
    _, attention, _, master_attention = ops.graph_attention(*arguments)
    torch.library.opcheck(
        ops.graph_attention_backward.default,
        (grad, grad_summary, attention, master_attention, *arguments),
        test_utils=utilities,
    )


def test_raw_ops_refuse_what_does_not_fit() -> None:
    inputs, grad, _ = problem(2, 6, 8, 4, torch.float32)
    x, weight, bias, vectors, *none = inputs
    ops = torch.ops.sparse_aasist
    _, attention, summary, master_attention = ops.graph_attention(
        x, weight, bias, vectors, 6, 1.0, *none
    )
    for arguments, message in (
        ((x[0], weight, bias, vectors, 6, 1.0, *none), "x must be"),
        ((x, weight[:, :3], bias, vectors, 6, 1.0, *none), "weight, bias and vectors"),
        ((x, weight, bias[:2], vectors, 6, 1.0, *none), "weight, bias and vectors"),
        ((x, weight, bias, vectors, 5, 1.0, *none), "num_type1"),
        ((x, weight, bias, vectors, 6, 0.0, *none), "temperature"),
        ((x, weight, bias, vectors, 6, 1.0, x[:1, :1], None, None, None), "weights of its own"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.graph_attention(*arguments)
    for saved in (attention[:, :3], attention.double(), attention.transpose(1, 2)):
        with pytest.raises(RuntimeError, match="do not fit x"):
            ops.graph_attention_backward(
                *(grad, summary, saved, master_attention, x, weight, bias, vectors, 6, 1.0, *none)
            )


def test_under_function_transforms_it_runs_as_the_reference() -> None:
    inputs, _, _ = problem(3, 5, 4, 3, torch.float64)
    x, weight, bias, vectors = inputs.given()

    def of_x(x: Tensor) -> Tensor:
        return graph_attention(x, weight, bias, vectors[0], 1.0)

    per_clip = torch.func.vmap(lambda clip: of_x(clip.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(per_clip, of_x(x))
    jacobian = torch.func.jacrev(of_x)(x)
    assert jacobian.shape == (*x.shape, *x.shape)


def test_autocast_does_not_change_x() -> None:
    inputs, _, _ = problem(2, 5, 4, 3, torch.bfloat16)
    x, weight, bias, vectors = inputs.given()
    expected = graph_attention(x, weight, bias, vectors[0], 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = graph_attention(x, weight.float(), bias.float(), vectors[0].float(), 1.0)
    assert got.dtype is torch.bfloat16 and torch.equal(got, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x must be a tensor, got NoneType"),
        ({"x": torch.zeros(2, 6, 8, dtype=torch.int32)}, TypeError, "x must be float32"),
        ({"x": torch.zeros(6, 8)}, ValueError, "x must be .batch, nodes, dim"),
        ({"x": torch.zeros(2, 0, 8)}, ValueError, "x must be .batch, nodes, dim"),
        ({"weight": torch.zeros(4, 7)}, ValueError, "weight must be .4, 8., got .4, 7."),
        ({"weight": torch.zeros(8)}, ValueError, "weight must be .hidden, 8."),
        ({"bias": torch.zeros(5)}, ValueError, "bias must be .4,., got .5,."),
        (
            {"bias": torch.zeros(4).double()},
            TypeError,
            "bias must have the dtype of x",
        ),
        ({"bias": torch.zeros(4, device="meta")}, ValueError, "bias is on meta but x is on cpu"),
        ({"vectors": torch.zeros(2, 4)}, ValueError, "vectors must be .3, 4., got .2, 4."),
        ({"num_type1": 7}, ValueError, "num_type1 must be in 0..6 .nodes of x., got 7"),
        ({"num_type1": 2.0}, TypeError, "num_type1 must be an int, got 2.0"),
        ({"temperature": 0}, ValueError, "temperature must be finite and above 0, got 0"),
        ({"temperature": math.nan}, ValueError, "temperature must be finite and above 0, got nan"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite and above 0, got inf"),
        ({"master": torch.zeros(1, 1, 8)}, TypeError, "master must be a Master, got Tensor"),
        ({"temperature": "1"}, TypeError, "temperature must be a number, got '1'"),
        (
            {"master": Master(torch.zeros(3, 1, 8), *(torch.zeros(s) for s in ((4, 8), 4, 4)))},
            ValueError,
            "master.node must be .1, 1, 8., got .3, 1, 8.",
        ),
        (
            {"master": Master(torch.zeros(2, 1, 8), *(torch.zeros(s) for s in ((5, 8), 4, 4)))},
            ValueError,
            "master.weight must be .4, 8., got .5, 8.",
        ),
    ],
)
def test_wrong_arguments(change: dict, error: type, message: str) -> None:
    arguments = {
        "x": torch.zeros(2, 6, 8),
        "num_type1": 2,
        "weight": torch.zeros(4, 8),
        "bias": torch.zeros(4),
        "vectors": torch.zeros(3, 4),
        "temperature": 1.0,
    } | change
    for function in (hetero_graph_attention, hetero_graph_attention_reference):
        with pytest.raises(error, match=message):
            function(**arguments)


def test_wrong_vector() -> None:
    x, weight, bias = torch.zeros(2, 6, 8), torch.zeros(4, 8), torch.zeros(4)
    with pytest.raises(ValueError, match=r"v must be \(4,\), got \(4, 1\)"):
        graph_attention(x, weight, bias, torch.zeros(4, 1), 1.0)
    with pytest.raises(TypeError, match="v must be a tensor, got list"):
        graph_attention(x, weight, bias, [0.0], 1.0)
