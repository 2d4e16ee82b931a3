"""The whole model, and its stages, against PyTorch: scoring, and a training step.

    pytest benchmarks/bench_model.py                  # on a CPU
    pytest benchmarks/bench_model.py --device cuda

`make bench` and `make bench-cuda` run this and write the tables (report.py).
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measure import clock, launches, measure, peak_memory, return_memory
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sparse_aasist import AASIST
from sparse_aasist.models import aasist, encoder
from sparse_aasist.ops import backend
from sparse_aasist.runtime import tune_process

SAMPLES = 64_600
BATCHES = (1, 8, 24)
TRAINING_BATCHES = (8,)
SCORERS = ("sparse_aasist", "eager", "default malloc", "folded", "compiled", "bfloat16")
TRAINERS = ("sparse_aasist", "eager", "default malloc", "bfloat16")
STAGES = ("front_end", *(f"block {number}" for number in range(1, 7)))
TOLERANCE = {"bfloat16": 0.1}
"""Of results, on the scale of all of them; 1e-3 for all others."""
GEMM_SIZE = 2048

pytestmark = pytest.mark.benchmark(timer=clock)


@cache
def model_of(provider: str, device: str) -> AASIST:
    """Return the same model for every provider, in the form that suits it."""
    torch.manual_seed(0)
    model = AASIST(dim=160, k=20).eval()
    for name, buffer in model.named_buffers():
        if "running_var" in name:
            buffer.uniform_(0.5, 2)
    if provider in ("folded", "compiled"):
        for block in model.encoder:
            block[0].conv1 = fuse_conv_bn_eval(block[0].conv1, block[0].bn2)
            block[0].bn2 = nn.Identity()
    if provider in ("folded", "compiled", "bfloat16"):
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)


@contextmanager
def settings_of(provider: str, monkeypatch: pytest.MonkeyPatch, device: str) -> Iterator[None]:
    """Make PyTorch run as the provider would: modules one by one, and malloc as glibc has it."""
    if provider == "sparse_aasist":
        with backend("compiled"):
            yield
        return
    if provider == "default malloc" and device != "cpu":
        pytest.skip("malloc is a matter of the CPU")
    with monkeypatch.context() as patch:
        for module in (aasist, encoder):
            patch.setattr(module, "only_computes", lambda *_, **__: False)
        try:
            if provider == "default malloc":
                set_malloc(mmap_threshold=32 << 20, trim_threshold=64 << 20, top_pad=128 << 10)
                return_memory()
            with (
                backend("reference"),
                torch.autocast(device, torch.bfloat16, enabled=provider == "bfloat16"),
            ):
                yield
        finally:
            tune_process()


def set_malloc(mmap_threshold: int, trim_threshold: int, top_pad: int) -> None:
    """Set what glibc arrives at by itself once large blocks were freed: mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("this malloc is not glibc's")
    for parameter, value in ((-3, mmap_threshold), (-1, trim_threshold), (-2, top_pad)):
        mallopt(parameter, value)


def check_whole(got: Tensor, expected: Tensor, provider: str) -> None:
    """Refuse to time a provider that computes something else."""
    error = (got - expected).norm() / expected.norm()
    assert error <= TOLERANCE.get(provider, 1e-3), f"{provider} is off by {error:.1e}"


@cache
def compiled_model(batch: int, device: str) -> Callable[[Tensor], Any]:
    torch._dynamo.reset()
    return torch.compile(model_of("compiled", device), dynamic=False)


def waveforms(batch: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, SAMPLES, generator=generator).mul(0.1).to(device)


def on_threads(count: int, function: Callable[[], object]) -> Callable[[], object]:
    """Run on a number of threads, which is then restored."""

    def run() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return function()
        finally:
            torch.set_num_threads(before)

    return run


@pytest.mark.parametrize("provider", SCORERS)
@pytest.mark.parametrize(("name", "batch"), [*(("model", b) for b in BATCHES), ("one core", 1)])
def bench_scoring(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    name: str,
    batch: int,
    provider: str,
) -> None:
    """From waveforms of 4.04 seconds to logits."""
    if name == "one core" and (device != "cpu" or provider in ("default malloc", "compiled")):
        pytest.skip("one core of a CPU, by what runs without compiling again")
    return_memory()
    waveform = waveforms(batch, device)
    with torch.inference_mode():
        expected = model_of("sparse_aasist", device)(waveform).logits
    model = compiled_model(batch, device) if provider == "compiled" else model_of(provider, device)

    def run() -> Tensor:
        with torch.inference_mode():
            return model(waveform).logits

    with settings_of(provider, monkeypatch, device):
        check_whole(run(), expected, provider)
        timed = on_threads(1, run) if name == "one core" else run
        record(benchmark, timed, device, name, batch, "forward", provider)
        if name == "one core":
            benchmark.extra_info["threads"] = "1"


@pytest.mark.parametrize("provider", TRAINERS)
@pytest.mark.parametrize("batch", TRAINING_BATCHES)
def bench_training(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    batch: int,
    provider: str,
) -> None:
    """Forward and backward of a training step; neither dropout nor optimiser."""
    return_memory()
    waveform = waveforms(batch, device)
    labels = torch.arange(batch, device=device) % 2

    def step_of(provider: str) -> Callable[[], Tensor]:
        model = copy.deepcopy(model_of(provider, device)).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

        def run() -> Tensor:
            model.zero_grad()
            F.cross_entropy(model(waveform).logits, labels).backward()
            return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

        return run

    # That of bfloat16 is another one, by as much as it rounds.
    expected = None if provider == "bfloat16" else step_of("sparse_aasist")()
    run = step_of(provider)
    with settings_of(provider, monkeypatch, device):
        got = run()
        if expected is not None:
            error = (got - expected).norm() / expected.norm()
            assert error < 1e-2, f"{provider} is off by {error:.1e}"
        record(benchmark, run, device, "training", batch, "both", provider)


@pytest.mark.parametrize("provider", ("sparse_aasist", "eager", "folded"))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("batch", BATCHES[:2])
def bench_stage(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    batch: int,
    stage: str,
    provider: str,
) -> None:
    """The stages of the model one by one, on inputs as the provider's model gives them."""
    return_memory()
    waveform = waveforms(batch, device)
    with torch.inference_mode():
        with settings_of("sparse_aasist", monkeypatch, device):
            expected = stage_of(model_of("sparse_aasist", device), stage, waveform)()
        with settings_of(provider, monkeypatch, device):
            run = stage_of(model_of(provider, device), stage, waveform)
            check_whole(run(), expected, provider)
            record(benchmark, run, device, stage, batch, "forward", provider)


def stage_of(model: AASIST, stage: str, waveform: Tensor) -> Callable[[], Tensor]:
    """Return a call of a stage on what the stages before it make of the waveform."""
    if stage == "front_end":
        return partial(model._filter, waveform)
    x = model._filter(waveform)
    number = int(stage.split()[1])
    for block in model.encoder[: number - 1]:
        x = block(x)
    return partial(model.encoder[number - 1], x)


@pytest.mark.parametrize("provider", ["torch.mm"])
def bench_peak(benchmark: BenchmarkFixture, device: str, provider: str) -> None:
    """What the machine multiplies at most: a large product of matrices, float32."""
    a = torch.randn(GEMM_SIZE, GEMM_SIZE, device=device)
    record(benchmark, lambda: a @ a, device, "peak", GEMM_SIZE, "forward", provider)


def record(
    benchmark: BenchmarkFixture,
    run: Callable[[], object],
    device: str,
    name: str,
    batch: int,
    mode: str,
    provider: str,
) -> None:
    benchmark.group = f"{name} {mode} {batch}, {device}"
    benchmark.extra_info.update(name=name, batch=batch, mode=mode, provider=provider, kind=device)
    benchmark.extra_info["peak_bytes"] = peak_memory(run, device)
    if (count := launches(run, device)) is not None:
        benchmark.extra_info["launches"] = count
    measure(benchmark, run, device)
