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
from measure import check, clock, launches, measure, peak_memory, return_memory
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
STAGES = ("front_end", *(f"block {number}" for number in range(1, 7)), "graph_half")
TOLERANCE = {"bfloat16": 0.3}
"""Of logits; 1e-3 for all others."""
GEMM_SIZE = 2048
GIGA = 1e9

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
        with backend("compiled" if device == "cpu" else "reference"):
            yield
        return
    for module in (aasist, encoder):
        monkeypatch.setattr(module, "only_computes", lambda module, training=False: False)
    if provider == "default malloc":
        set_malloc(mmap_threshold=32 << 20, trim_threshold=64 << 20, top_pad=128 << 10)
    with (
        backend("reference"),
        torch.autocast(device, torch.bfloat16, enabled=provider == "bfloat16"),
    ):
        yield
    if provider == "default malloc":
        tune_process()


def set_malloc(mmap_threshold: int, trim_threshold: int, top_pad: int) -> None:
    """Set what glibc arrives at by itself once large blocks were freed: mallopt(3)."""
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((-3, mmap_threshold), (-1, trim_threshold), (-2, top_pad)):
        mallopt(parameter, value)


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
        check(run(), expected, tolerance=TOLERANCE.get(provider, 1e-3))
        timed = on_threads(1, run) if name == "one core" else run
        record(benchmark, timed, device, name, batch, "forward", provider)


@pytest.mark.parametrize("provider", TRAINERS)
@pytest.mark.parametrize("batch", TRAINING_BATCHES)
def bench_training(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    batch: int,
    provider: str,
) -> None:
    """A forward and backward pass of a training step; dropout on, optimiser left out."""
    return_memory()
    model = copy.deepcopy(model_of(provider, device)).train()
    waveform = waveforms(batch, device)
    labels = torch.arange(batch, device=device) % 2

    def run() -> Tensor:
        model.zero_grad()
        loss = F.cross_entropy(model(waveform).logits, labels)
        loss.backward()
        return loss

    with settings_of(provider, monkeypatch, device):
        assert run().isfinite()
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
    """The stages of the model one by one, on inputs that the model gives them."""
    return_memory()
    waveform = waveforms(batch, device)
    with torch.inference_mode():
        inputs = stage_inputs(model_of("sparse_aasist", device), waveform)
        expected = stage_of(model_of("sparse_aasist", device), stage)(inputs[stage])
        function = partial(stage_of(model_of(provider, device), stage), inputs[stage])
        with settings_of(provider, monkeypatch, device):
            check(function(), expected, tolerance=1e-3)
            record(benchmark, function, device, stage, batch, "forward", provider)


def stage_of(model: AASIST, stage: str) -> Callable[[Tensor], Any]:
    if stage == "front_end":
        return model._filter
    if stage == "graph_half":
        return lambda features: model._classify(features).logits
    return model.encoder[int(stage.split()[1]) - 1]


def stage_inputs(model: AASIST, waveform: Tensor) -> dict[str, Tensor]:
    inputs = {"front_end": waveform}
    x = model._filter(waveform)
    for number, block in enumerate(model.encoder, 1):
        inputs[f"block {number}"] = x
        x = block(x)
    return inputs | {"graph_half": x}


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
