"""graph_attention, graph_pool and the whole graph half of AASIST against PyTorch.

    pytest benchmarks/bench_graph.py                  # on a CPU
    pytest benchmarks/bench_graph.py --device cuda

`make bench` and `make bench-cuda` run this and write the tables (report.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measure import (
    check,
    clock,
    compiled,
    launches,
    measure,
    peak_memory,
    return_memory,
    run_of,
)
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from sparse_aasist import AASIST
from sparse_aasist.models import aasist, graph, head
from sparse_aasist.ops import Master, backend, graph_attention, graph_pool

BATCHES = (1, 24, 128)
NODES = (23, 29, 31, 100, 200, 500)
MODES = ("forward", "both")
PROVIDERS = ("sparse_aasist", "eager", "compiled")
WIDTH = 64
TEMPERATURE = 2.0
RATIO = 0.5
MOST_BYTES = 2 << 30
"""Of one tensor of all pairs and their widths; PyTorch holds six of them."""
TOLERANCE = 2e-3
"""Of results in float32, which are sums of up to millions of terms."""

pytestmark = pytest.mark.benchmark(timer=clock)


def eager_attention(
    x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """Do what clovaai/aasist does in GraphAttentionLayer."""
    products = x.unsqueeze(2) * x.unsqueeze(1)
    scores = torch.tanh(F.linear(products, weight, bias)) @ v / temperature
    return scores.softmax(dim=-1) @ x


def eager_hetero_attention(
    x: Tensor,
    num_type1: int,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    temperature: float,
    master: Master,
) -> tuple[Tensor, Tensor]:
    """Do what clovaai/aasist does in HtrgGraphAttentionLayer."""
    hidden = torch.tanh(F.linear(x.unsqueeze(2) * x.unsqueeze(1), weight, bias))
    scores = torch.zeros_like(hidden[..., 0])
    one, two = slice(None, num_type1), slice(num_type1, None)
    scores[:, one, one] = hidden[:, one, one] @ vectors[0]
    scores[:, two, two] = hidden[:, two, two] @ vectors[1]
    scores[:, one, two] = hidden[:, one, two] @ vectors[2]
    scores[:, two, one] = hidden[:, two, one] @ vectors[2]
    of_master = torch.tanh(F.linear(x * master.node, master.weight, master.bias)) @ master.v
    summary = (of_master / temperature).softmax(dim=1).unsqueeze(1) @ x
    return (scores / temperature).softmax(dim=-1) @ x, summary


def fused_attention(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    return graph_attention(x, weight, bias, v, TEMPERATURE)


def eager_pool(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float = RATIO, scale: Tensor | None = None
) -> Tensor:
    """Do what clovaai/aasist does in GraphPool."""
    scores = torch.sigmoid(F.linear(h if scale is None else h * scale, weight, bias))
    order = torch.topk(scores, max(int(h.shape[1] * ratio), 1), dim=1).indices
    return (h * scores).gather(1, order.expand(-1, -1, h.shape[2]))


def fused_pool(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return graph_pool(h, weight, bias, RATIO)


FUNCTIONS = {
    "graph_attention": (fused_attention, eager_attention),
    "graph_pool": (fused_pool, eager_pool),
}


@cache
def compiled_for(name: str, batch: int, nodes: int) -> Callable[..., Tensor]:
    """Compile the eager function once for all modes of a size."""
    return compiled(FUNCTIONS[name][1])


def function_of(name: str, provider: str, batch: int, nodes: int) -> Callable[..., Tensor]:
    if provider == "compiled":
        return compiled_for(name, batch, nodes)
    return FUNCTIONS[name][provider == "eager"]


def inputs_of(name: str, batch: int, nodes: int, device: str) -> tuple[list[Tensor], Tensor]:
    """Return random inputs that require gradients, and a gradient of the output."""
    if 4 * batch * nodes * nodes * WIDTH > MOST_BYTES:
        pytest.skip(f"pairs of nodes times their width are at most {MOST_BYTES >> 20} MiB")
    return_memory()
    generator = torch.Generator().manual_seed(nodes)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator).mul(scale).to(device)

    x, grad = randn(batch, nodes, WIDTH), randn(batch, nodes, WIDTH)
    if name == "graph_pool":
        # Scores without near ties, which leave the order to rounding.
        order = torch.stack([torch.randperm(nodes, generator=generator) for _ in range(batch)])
        x[:, :, 0] = (4 * order / nodes - 2).to(device)
        inputs = [x, torch.eye(1, WIDTH, device=device), randn(1)]
        grad = grad[:, : max(int(nodes * RATIO), 1)].contiguous()
    else:
        inputs = [x, randn(WIDTH, WIDTH, scale=0.2), randn(WIDTH), randn(WIDTH)]
    return [tensor.requires_grad_() for tensor in inputs], grad


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", FUNCTIONS)
def bench_graph_op(
    benchmark: BenchmarkFixture,
    device: str,
    name: str,
    batch: int,
    nodes: int,
    mode: str,
    provider: str,
) -> None:
    inputs, grad = inputs_of(name, batch, nodes, device)
    function = function_of(name, provider, batch, nodes)
    fused = FUNCTIONS[name][0]
    with backend("compiled"):
        run = run_of(mode, lambda: function(*inputs), inputs, grad)
        check(run(), run_of(mode, lambda: fused(*inputs), inputs, grad)(), tolerance=TOLERANCE)
        record(benchmark, run, device, name, batch, nodes, mode, provider)


def eager_topk_linear(
    x: Tensor, k: int, weight: Tensor, bias: Tensor, **_: object
) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(x, k, dim=-1, sorted=False)
    activation = torch.zeros_like(x).scatter(-1, indices, values)
    return F.linear(activation, weight, bias), activation


@cache
def graph_half(device: str) -> AASIST:
    """Return a model with live attention; dropout off, batch statistics on in training."""
    torch.manual_seed(0)
    model = AASIST(dim=160, k=20)
    for name, parameter in model.named_parameters():
        if "att_weight" in name:
            torch.nn.init.normal_(parameter, std=20.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.to(device)


@cache
def compiled_half(batch: int, mode: str, device: str) -> Callable[[Tensor], Any]:
    return compiled(graph_half(device)._classify)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", BATCHES[:2])
def bench_graph_half(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    batch: int,
    mode: str,
    provider: str,
) -> None:
    """From the encoder's output for 64,600 samples to the logits, in training with gradients."""
    model = graph_half(device).train(mode == "both")
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, WIDTH, 23, 29, generator=generator).to(device)
    of_encoder = ("conv_time", "first_bn", "encoder")
    named = [pair for pair in model.named_parameters() if not pair[0].startswith(of_encoder)]
    inputs = [features.requires_grad_(), *(parameter for _, parameter in named)]
    grad = torch.randn(batch, 2, generator=generator).to(device)
    expected = run_of(mode, lambda: model._classify(features).logits, inputs, grad)()
    classify = compiled_half(batch, mode, device) if provider == "compiled" else model._classify
    if provider != "sparse_aasist":
        monkeypatch.setattr(graph, "graph_attention", eager_attention)
        monkeypatch.setattr(graph, "hetero_graph_attention", eager_hetero_attention)
        monkeypatch.setattr(graph, "graph_pool", eager_pool)
        monkeypatch.setattr(head, "topk_linear", eager_topk_linear)
        monkeypatch.setattr(aasist, "graph_stack", lambda model, features: None)
    run = run_of(mode, lambda: classify(features).logits, inputs, grad)
    check_whole(run(), expected)
    record(benchmark, run, device, "graph_half", batch, 29, mode, provider)


def check_whole(got: Any, expected: Any) -> None:
    """Refuse other results; gradients are compared as one vector, for some nearly vanish."""
    got, expected = (
        torch.cat([t.flatten() for t in (x if isinstance(x, tuple) else (x,))])
        for x in (got, expected)
    )
    assert (got - expected).norm() < 1e-2 * expected.norm()


def record(
    benchmark: BenchmarkFixture,
    run: Callable[[], object],
    device: str,
    name: str,
    batch: int,
    nodes: int,
    mode: str,
    provider: str,
) -> None:
    benchmark.group = f"{name} {mode} {batch} x {nodes}, {device}"
    benchmark.extra_info.update(
        name=name, batch=batch, nodes=nodes, mode=mode, provider=provider, kind=device
    )
    benchmark.extra_info["peak_bytes"] = peak_memory(run, device)
    if (count := launches(run, device)) is not None:
        benchmark.extra_info["launches"] = count
    measure(benchmark, run, device)
