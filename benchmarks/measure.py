"""Timing and peak memory of a function, the same way for every provider.

A CPU is timed by the clock. A GPU is timed by replays of a CUDA graph, so that neither Python nor
the launch of kernels counts; the clock is read after a synchronisation.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from sparse_aasist import build_info
from sparse_aasist._extension import simd_level

ROUND_S = 0.005
"""A round repeats the function for about this long."""
MEASURED_S = 0.4
LEAST_ROUNDS, MOST_ROUNDS = 11, 80
WARM_UPS = 8
MOST_S = 15.0
"""For the rounds of one benchmark, and a third of it for the warm-up; three rounds at least."""


def measure(benchmark: BenchmarkFixture, function: Callable[[], object], device: str) -> None:
    """Let `benchmark` time `function`, warmed up, in rounds that the clock resolves."""
    run = _replayed(function) if device == "cuda" else function
    gc.collect()
    times: list[float] = []
    while len(times) < WARM_UPS and (len(times) < 2 or sum(times) < MOST_S / 3):
        started = clock()
        run()
        times.append(clock() - started)
    # The fastest: one slow run must not leave rounds that are too short.
    once = max(min(times), 1e-7)
    iterations = math.ceil(ROUND_S / once)
    rounds = min(max(int(MEASURED_S / (iterations * once)), LEAST_ROUNDS), MOST_ROUNDS)
    rounds = max(min(rounds, int(MOST_S / (iterations * once))), 3)
    benchmark.extra_info.update(provenance(device))
    benchmark.pedantic(run, rounds=rounds, iterations=iterations)


def provenance(device: str) -> dict[str, str]:
    """Return what the figures depend on, apart from code and processor: versions, settings."""
    shared = {"torch": str(torch.__version__), "compiler": build_info()["compiler"]}
    if device == "cuda":
        driver = torch._C._cuda_getDriverVersion()
        return shared | {
            "device": torch.cuda.get_device_name(),
            "driver": f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            "simd": "",
            "threads": "",
        }
    return shared | {
        "driver": platform.release(),
        "simd": simd_level(),
        "threads": str(torch.get_num_threads()),
    }


def clock() -> float:
    """Return seconds; waits for a GPU first. The timer of every benchmark."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _replayed(function: Callable[[], object]) -> Callable[[], object]:
    """Return a function that replays the kernels of `function`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def return_memory() -> None:
    """Return what earlier benchmarks left to the system: gigabytes, in cycles and in malloc."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Return by how many bytes `function` raises the memory of tensors at most."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
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


def launches(function: Callable[[], object], device: str) -> int | None:
    """Return how many kernels `function` launches on a GPU; None on a CPU."""
    if device != "cuda":
        return None
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


def random_rows(rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return x (rows, dim), normal, that requires a gradient, and a gradient of its shape."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(rows, dim, generator=generator)
    grad = torch.randn(rows, dim, generator=generator)
    return x.to(device).requires_grad_(), grad.to(device)
