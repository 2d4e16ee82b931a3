"""topk_activation against torch.topk + scatter, forward and with backward.

Run: pytest benchmarks/bench_topk_activation.py --benchmark-group-by=group
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from sparse_aasist.ops import topk_activation, topk_activation_reference

K = 20
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

Function = Callable[[Tensor, int], Tensor]


def topk_scatter(x: Tensor, k: int) -> Tensor:
    """What one writes without this package; which of several equal entries stay is undefined."""
    values, indices = torch.topk(x, k, dim=-1, sorted=False)
    return torch.zeros_like(x).scatter(-1, indices, values)


PROVIDERS: dict[str, Function] = {
    "sparse_aasist": topk_activation,
    "topk_scatter": topk_scatter,
    "reference": topk_activation_reference,
}


def forward(function: Function, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = function(x, K)
    _wait(x)
    return y


def forward_backward(function: Function, x: Tensor, grad: Tensor) -> Tensor:
    (got,) = torch.autograd.grad(function(x, K), x, grad)
    _wait(x)
    return got


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def _inputs(rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Rows of a permutation: no ties, so that every provider has one right answer.
    x = torch.stack([torch.randperm(dim, generator=generator) for _ in range(rows)]).float()
    grad = torch.randn(rows, dim, generator=generator)
    return x.sub(dim / 2 - 0.25).to(device).requires_grad_(), grad.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [160, 320])
@pytest.mark.parametrize("rows", [24, 1024])
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("provider", PROVIDERS)
def bench_topk_activation(
    benchmark: Callable[..., Tensor], provider: str, mode: str, rows: int, dim: int, device: str
) -> None:
    x, grad = _inputs(rows, dim, device)
    run = {
        "forward": partial(forward, x=x),
        "forward_backward": partial(forward_backward, x=x, grad=grad),
    }[mode]
    expected = run(topk_activation_reference)
    assert torch.equal(run(PROVIDERS[provider]), expected)
    benchmark.group = f"{mode} {rows} x {dim} {device}, {torch.get_num_threads()} threads"
    benchmark.extra_info.update(provider=provider, k=K, torch=str(torch.__version__))
    benchmark(run, PROVIDERS[provider])
