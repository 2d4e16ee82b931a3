"""topk_activation and topk_linear against what one writes with PyTorch.

    pytest benchmarks/bench_topk.py                  # on a CPU
    pytest benchmarks/bench_topk.py --device cuda

`make bench` and `make bench-cuda` run this and write the tables (report.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measure import check, clock, compiled, random_rows, record, return_memory, run_of
from published import topk_scatter
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from sparse_aasist.ops import backend, topk_activation, topk_linear

ROWS = (24, 1024, 65_536)
DIMS = (160, 320, 1024, 4096, 16_384, 65_536)
KS = (20, 50, 100)
REPRESENTATIVE = (
    *((24, 160), (24, 65_536), (1024, 160), (1024, 4096)),
    *((65_536, 160), (65_536, 1024), (16_384, 160), (16_384, 4096)),
)
REPRESENTATIVE_COMPILED = ((1024, 160), (65_536, 160))
MODES = ("forward", "backward", "both")
CLASSES = 2
MOST_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Larger inputs are skipped: some providers hold eight tensors of their size."""

pytestmark = pytest.mark.benchmark(timer=clock)

Select = Callable[[Tensor, int], Tensor]


def topk_scatter_linear(x: Tensor, k: int, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(topk_scatter(x, k), weight, bias)


@cache
def compiled_for(
    function: Callable[..., Tensor], rows: int, dim: int, k: int
) -> Callable[..., Tensor]:
    """Compile `function` once for all modes of a size."""
    return compiled(function)


def select_with(provider: str, rows: int, dim: int, k: int) -> Select:
    if provider == "compiled":
        return compiled_for(topk_scatter, rows, dim, k)
    return {
        "sparse_aasist": topk_activation,
        "unsorted": topk_scatter,
        "sorted": partial(topk_scatter, sorted=True),
    }[provider]


@lru_cache(maxsize=1)
def inputs_of(rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return x and a gradient such that no provider has a choice: no ties where any k cuts."""
    if 4 * rows * dim > MOST_BYTES[device]:
        pytest.skip(f"inputs are at most {MOST_BYTES[device] >> 20} MiB on {device}")
    return_memory()
    x, grad = random_rows(rows, dim, device)
    with torch.no_grad():
        best = x.topk(min(max(KS) + 1, dim), sorted=True).values
        for k in KS:
            tied = best[:, k - 1] == best[:, k]
            x[tied] = x[tied] + 1e-3 * torch.arange(dim, device=device)
    return x, grad


def bytes_moved(mode: str, rows: int, dim: int, k: int) -> int:
    """Return what has to be read and written at least, in bytes of float32 and int32."""
    forward = rows * (2 * dim + (0 if mode == "forward" else k))
    backward = rows * (dim + 2 * k)
    return 4 * {"forward": forward, "backward": backward, "both": forward + backward}[mode]


def is_representative(params: dict[str, Any]) -> bool:
    """Tell whether a case is one of the few of `--representative`."""
    size = (params["rows"], params["dim"])
    if size not in REPRESENTATIVE or params.get("k", KS[0]) != KS[0]:
        return False
    return params.get("provider") != "compiled" or size in REPRESENTATIVE_COMPILED


# The providers of one size run one after the other: the machine is then the same to all.
@pytest.mark.parametrize("provider", ["sparse_aasist", "unsorted", "sorted", "compiled"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rows", ROWS)
def bench_topk_activation(
    benchmark: BenchmarkFixture, device: str, rows: int, dim: int, k: int, mode: str, provider: str
) -> None:
    if (provider, mode) == ("compiled", "backward"):
        pytest.skip("a compiled backward run twice scatters into the zeros of the first run")
    x, grad = inputs_of(rows, dim, device)
    select = select_with(provider, rows, dim, k)
    with backend("compiled"):
        run = run_of(mode, lambda: select(x, k), [x], grad)
        check(run(), run_of(mode, lambda: topk_activation(x, k), [x], grad)())
        record(
            benchmark,
            run,
            device,
            name="topk_activation",
            mode=mode,
            provider=provider,
            rows=rows,
            dim=dim,
            k=k,
            bytes=bytes_moved(mode, rows, dim, k),
        )


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rows", ROWS)
def bench_copy(benchmark: BenchmarkFixture, device: str, rows: int, dim: int) -> None:
    """The copy of a tensor: the bandwidth that the others are held to."""
    x = inputs_of(rows, dim, device)[0].detach()
    record(
        benchmark,
        x.clone,
        device,
        name="copy",
        mode="forward",
        provider="copy",
        rows=rows,
        dim=dim,
        k=0,
        bytes=8 * rows * dim,
    )


@pytest.mark.parametrize("provider", ["sparse_aasist", "unsorted", "compiled"])
@pytest.mark.parametrize("mode", ["forward", "both"])
@pytest.mark.parametrize("dim", [160, 320, 4096])
@pytest.mark.parametrize("rows", [24, 1024, 16_384])
def bench_topk_linear(
    benchmark: BenchmarkFixture, device: str, rows: int, dim: int, mode: str, provider: str
) -> None:
    k = 20
    x, _ = inputs_of(rows, dim, device)
    layer = torch.nn.Linear(dim, CLASSES, device=device)
    grad = torch.randn(rows, CLASSES, device=device)
    function = topk_linear if provider == "sparse_aasist" else topk_scatter_linear
    if provider == "compiled":
        function = compiled_for(function, rows, dim, k)
    inputs = [x, layer.weight, layer.bias]
    with backend("compiled"):
        run = run_of(mode, lambda: function(x, k, layer.weight, layer.bias), inputs, grad)
        expected = run_of(mode, lambda: topk_linear(x, k, layer.weight, layer.bias), inputs, grad)
        check(run(), expected(), tolerance=1e-3)
        record(
            benchmark,
            run,
            device,
            name="topk_linear",
            mode=mode,
            provider=provider,
            rows=rows,
            dim=dim,
            k=k,
        )
