"""graph_attention, graph_pool and the whole graph half of AASIST against PyTorch.

    pytest benchmarks/bench_graph.py                  # on a CPU
    pytest benchmarks/bench_graph.py --device cuda

`make bench` and `make bench-cuda` run this and write the tables (report.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import published
import pytest
import torch
from measure import check, check_norm, clock, compiled, record, return_memory, run_of
from published import instead_of_ours
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from sparse_aasist import AASIST
from sparse_aasist.ops import backend, graph_attention, graph_pool

BATCHES = (1, 24, 128)
NODES = (23, 29, 31, 100, 200, 500)
REPRESENTATIVE = ((1, 29), (24, 29), (128, 29), (24, 200), (24, 500))
REPRESENTATIVE_COMPILED = ((24, 29), (24, 200))
MODES = ("forward", "both")
PROVIDERS = ("sparse_aasist", "eager", "compiled")
WIDTH = 64
TEMPERATURE = 2.0
RATIO = 0.5
MOST_BYTES = 2 << 30
"""Of one tensor of all pairs and their widths; PyTorch holds six of them."""
TOLERANCE = 2e-3
"""Of results in float32, which are sums of up to millions of terms."""
HALF_TOLERANCE = 1e-2
"""Of logits and gradients of the graph half, of their norm."""

pytestmark = pytest.mark.benchmark(timer=clock)


def fused_attention(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    return graph_attention(x, weight, bias, v, TEMPERATURE)


def fused_pool(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return graph_pool(h, weight, bias, RATIO)


def eager_attention(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    return published.attention(x, weight, bias, v, TEMPERATURE)


def eager_pool(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return published.pool(h, weight, bias, RATIO)


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


def is_representative(params: dict[str, Any]) -> bool:
    """Tell whether a case is one of the few of `--representative`."""
    size = (params["batch"], params.get("nodes", 29))
    if "nodes" in params and size not in REPRESENTATIVE:
        return False
    # The compiled half of the model takes most of a minute.
    compiles = "nodes" in params and size in REPRESENTATIVE_COMPILED
    return compiles or params["provider"] != "compiled"


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
        record(
            benchmark,
            run,
            device,
            name=name,
            mode=mode,
            provider=provider,
            counts_launches=True,
            batch=batch,
            nodes=nodes,
        )


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
    benchmark: BenchmarkFixture, device: str, batch: int, mode: str, provider: str
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
    run = run_of(mode, lambda: classify(features).logits, inputs, grad)
    with nullcontext() if provider == "sparse_aasist" else instead_of_ours(graphs_only=True):
        error = check_norm(run(), expected, HALF_TOLERANCE)
        record(
            benchmark,
            run,
            device,
            name="graph_half",
            mode=mode,
            provider=provider,
            counts_launches=True,
            batch=batch,
            nodes=29,
            error=error,
        )
