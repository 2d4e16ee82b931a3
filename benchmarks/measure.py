"""Timing and peak memory of a function, the same way for every provider.

A CPU is timed by the clock. A GPU is timed by replays of a CUDA graph, so that neither Python nor
the launch of kernels counts, or as it is called, with both; the clock is read after a
synchronisation.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from results import SIZES
from torch import Tensor

ROUND_S = 0.005
"""A round repeats the function for about this long."""


class Effort(NamedTuple):
    """How much of one benchmark is measured.

    Attributes:
        measured_s: of all rounds, where the least and the most number of them allow it.
        most_s: of all rounds, three at least; a third of it for the warm-up.
    """

    measured_s: float
    least_rounds: int
    most_rounds: int
    warm_ups: int
    most_s: float


EFFORT = {"cpu": Effort(0.4, 11, 80, 8, 15.0), "cuda": Effort(0.1, 7, 40, 3, 3.0)}
"""Nobody shares a GPU with us, and its time is dear: a tenth is enough."""


def record(
    benchmark: BenchmarkFixture,
    run: Callable[[], object],
    device: str,
    *,
    name: str,
    mode: str,
    provider: str,
    replay: bool = True,
    counts_launches: bool = False,
    **columns: float,
) -> None:
    """Measure peak memory and time of `run`, and write down what it is.

    Args:
        replay: see `measure`.
        counts_launches: on a GPU, count its kernels, too; the profiler takes longer than most runs.
        **columns: its sizes (`results.SIZES`), and further metrics (`report.METRICS`).
    """
    sizes = " x ".join(str(columns[size]) for size in SIZES if size in columns)
    benchmark.group = f"{name} {mode} {sizes}, {device}"
    benchmark.extra_info.update(name=name, mode=mode, provider=provider, kind=device, **columns)
    benchmark.extra_info["peak_bytes"] = peak_memory(run, device)
    if counts_launches and device == "cuda":
        benchmark.extra_info["launches"] = launches(run)
    measure(benchmark, run, device, replay=replay)


def measure(
    benchmark: BenchmarkFixture,
    function: Callable[[], object],
    device: str,
    *,
    replay: bool = True,
) -> None:
    """Let `benchmark` time `function`, warmed up, in rounds that the clock resolves.

    Args:
        replay: on a GPU, replay its kernels; False calls it, as users do.
    """
    effort = EFFORT[device]
    run = _replayed(function, effort) if replay and device == "cuda" else function
    gc.collect()
    times: list[float] = []
    while len(times) < effort.warm_ups and (len(times) < 2 or sum(times) < effort.most_s / 3):
        started = clock()
        run()
        times.append(clock() - started)
    # The fastest: one slow run must not leave rounds that are too short.
    once = max(min(times), 1e-7)
    iterations = math.ceil(ROUND_S / once)
    rounds = int(effort.measured_s / (iterations * once))
    rounds = min(max(rounds, effort.least_rounds), effort.most_rounds)
    rounds = max(min(rounds, int(effort.most_s / (iterations * once))), 3)
    benchmark.pedantic(run, rounds=rounds, iterations=iterations)


def clock() -> float:
    """Return seconds; waits for a GPU first. The timer of every benchmark."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _replayed(function: Callable[[], object], effort: Effort) -> Callable[[], object]:
    """Return a function that replays the kernels of `function`."""
    for _ in range(effort.warm_ups):
        function()
    graph = torch.cuda.CUDAGraph()
    # On the stream of all that was computed before: a backward pass runs on that of its forward.
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        function()
    return graph.replay


def return_memory() -> None:
    """Return what earlier benchmarks left to the system: gigabytes, in cycles and in malloc."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    torch.cuda.empty_cache()


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Return by how many bytes `function` raises the memory of tensors at most."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    in_use = peak = 0
    # The only way to the single allocations; FunctionEvents sum them up by op.
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return peak


def launches(function: Callable[[], object]) -> int:
    """Return how many kernels `function` launches on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` for one size, without what was compiled for others."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def run_of(
    mode: str, function: Callable[[], Any], inputs: list[Tensor], grads: Any
) -> Callable[[], Any]:
    """Return what is timed: forward alone, backward alone, or both."""
    if mode == "forward":

        def run() -> Any:
            with torch.no_grad():
                return function()

        return run
    if mode == "backward":
        y = function()
        return lambda: torch.autograd.grad(y, inputs, grads, retain_graph=True)
    return lambda: torch.autograd.grad(function(), inputs, grads)


def check(got: object, expected: object, tolerance: float = 0.0) -> None:
    """Refuse to time a provider that computes something else."""
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def check_norm(got: object, expected: object, tolerance: float) -> float:
    """Refuse to time a provider that computes something else; return its error, of the norm.

    Args:
        got, expected: tensors, several compared as one vector, for some gradients nearly vanish.
    """
    got, expected = _as_vector(got), _as_vector(expected)
    error = ((got - expected).norm() / expected.norm()).item()
    assert error <= tolerance, f"off by {error:.1e} of the norm, where {tolerance:.0e} may be"
    return error


def _as_vector(tensors: object) -> Tensor:
    parts = tensors if isinstance(tensors, (tuple, list)) else (tensors,)
    return torch.cat([part.float().flatten() for part in parts])


def random_rows(rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return x (rows, dim), normal, that requires a gradient, and a gradient of its shape."""
    # On the device: 67 million of them take a CPU a second.
    generator = torch.Generator(device).manual_seed(dim)
    x = torch.randn(rows, dim, generator=generator, device=device)
    grad = torch.randn(rows, dim, generator=generator, device=device)
    return x.requires_grad_(), grad
