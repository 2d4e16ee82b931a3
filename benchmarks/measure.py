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


def measure(benchmark: BenchmarkFixture, function: Callable[[], object], device: str) -> None:
    """Let `benchmark` time `function`, warmed up, in rounds that the clock resolves."""
    run = _replayed(function) if device == "cuda" else function
    gc.collect()
    times = []
    for _ in range(WARM_UPS):
        started = clock()
        run()
        times.append(clock() - started)
    # The fastest: one slow run must not leave rounds that are too short.
    once = max(min(times), 1e-7)
    iterations = math.ceil(ROUND_S / once)
    rounds = int(MEASURED_S / (iterations * once))
    benchmark.extra_info.update(provenance(device))
    benchmark.pedantic(
        run, rounds=min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS), iterations=iterations
    )


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


def random_rows(rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return x (rows, dim), normal, that requires a gradient, and a gradient of its shape."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(rows, dim, generator=generator)
    grad = torch.randn(rows, dim, generator=generator)
    return x.to(device).requires_grad_(), grad.to(device)
