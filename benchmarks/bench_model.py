"""The whole model, and its stages, against PyTorch: scoring, and a training step.

    pytest benchmarks/bench_model.py                  # on a CPU
    pytest benchmarks/bench_model.py --device cuda

`make bench` and `make bench-cuda` run this and write the tables (report.py). Which cases there are
stands in model_plans.py, how each provider runs in model_providers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measure import check_norm, clock, record, return_memory
from model_plans import PLANS, tolerance_of
from model_providers import autocast_of, model_of, settings_of, trained_model_of, waveforms
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

NOT_ON_ONE_CORE = ("default malloc", "compiled", "compiled bfloat16")
"""One core of a CPU is measured by what runs without compiling again."""

REPRESENTATIVE = ("sparse_aasist", "sparse_aasist bfloat16", "eager", "bfloat16", "torch.mm")
"""Providers of a whole model; those of a stage are few."""
REPRESENTATIVE_SCORING = (1, 128)
"""Batches that are scored."""

pytestmark = pytest.mark.benchmark(timer=clock)


def is_representative(params: dict[str, Any]) -> bool:
    """Tell whether a case is one of the few of `--representative`."""
    if "stage" in params:
        return params["mode"] == "forward"
    if "name" in params and params["batch"] not in REPRESENTATIVE_SCORING:
        return False
    return params["provider"] in REPRESENTATIVE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each benchmark the cases of the device; the providers of one run side by side."""
    plan = PLANS[metafunc.config.getoption("--device")]
    if metafunc.function is bench_scoring:
        cases = [
            (name, batch, provider)
            for name, batch in plan.scoring
            for provider in plan.scorers
            if name != "one core" or provider not in NOT_ON_ONE_CORE
        ]
        metafunc.parametrize(("name", "batch", "provider"), cases)
    elif metafunc.function is bench_training:
        metafunc.parametrize("batch", [plan.training_batch])
        metafunc.parametrize("provider", plan.trainers)
    elif metafunc.function is bench_stage:
        cases = [
            (mode, batch, stage, provider)
            for mode, batch in plan.stages
            for stage in plan.stage_names
            for provider in plan.stage_providers
        ]
        metafunc.parametrize(("mode", "batch", "stage", "provider"), cases)


@pytest.mark.parametrize("provider", ["torch.mm"])
def bench_peak(benchmark: BenchmarkFixture, device: str, provider: str) -> None:
    """What the machine multiplies at most, which the stages are compared with."""
    size, dtype = PLANS[device].gemm
    a = torch.randn(size, size, device=device).to(dtype)
    record(
        benchmark,
        lambda: a @ a,
        device,
        name="peak",
        mode="forward",
        provider=provider,
        batch=size,
    )


def bench_scoring(
    benchmark: BenchmarkFixture, device: str, name: str, batch: int, provider: str
) -> None:
    """From waveforms of 4.04 seconds to logits."""
    return_memory()
    run = scoring_of(provider, batch, device)
    error = check_scores(run, provider, batch, device)
    is_launched, is_one_core = name == "launched", name == "one core"
    with settings_of(provider):
        record(
            benchmark,
            on_threads(1, run) if is_one_core else run,
            device,
            name=name,
            mode="forward",
            provider=provider,
            replay=not is_launched,
            counts_launches=is_launched,
            batch=batch,
            error=error,
        )
    if is_one_core:
        benchmark.extra_info["threads"] = "1"


def scoring_of(provider: str, batch: int, device: str) -> Callable[[], Tensor]:
    """Return a call for logits (batch, 2)."""
    model, waveform = model_of(provider, device), waveforms(batch, device)
    call = compiled_model(provider, batch, device) if "compiled" in provider else model

    def run() -> Tensor:
        with torch.inference_mode(), autocast_of(provider, device):
            return call(waveform).logits

    return run


@cache
def compiled_model(provider: str, batch: int, device: str) -> Callable[[Tensor], Any]:
    torch._dynamo.reset()
    return torch.compile(model_of(provider, device), dynamic=False, fullgraph=True)


def check_scores(run: Callable[[], Tensor], provider: str, batch: int, device: str) -> float:
    """Check what the encoder gives, and the logits from that on; return the encoder's error.

    The graphs sort their nodes, of which rounding swaps some in noise: logits of other roundings
    differ by 0.1 to 0.5 of their norm, as those of other noise do.
    """
    with settings_of(provider):
        logits = run()
    features = model_of(provider, device).features.float()
    tolerance = tolerance_of("output", provider, device)
    error = check_norm(features, expected_features(batch, device), tolerance)
    reference = PLANS[device].reference
    with settings_of(reference), torch.inference_mode():
        expected = model_of(reference, device)._classify(features).logits
    check_norm(logits, expected, tolerance_of("output", provider, device, "graphs"))
    return error


@lru_cache(maxsize=1)
def expected_features(batch: int, device: str) -> Tensor:
    provider = PLANS[device].reference
    with settings_of(provider):
        scoring_of(provider, batch, device)()
    return model_of(provider, device).features


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


def bench_training(benchmark: BenchmarkFixture, device: str, batch: int, provider: str) -> None:
    """Forward and backward of a training step; neither dropout nor optimiser."""
    return_memory()
    expected = expected_step(batch, device)
    with settings_of(provider):
        run = step_of(provider, batch, device)
        error = check_norm(run(), expected, tolerance_of("step", provider, device))
        # Not replayed, as it is not by those who train, either.
        record(
            benchmark,
            run,
            device,
            name="training",
            mode="both",
            provider=provider,
            replay=False,
            counts_launches=True,
            batch=batch,
            error=error,
        )


def step_of(provider: str, batch: int, device: str) -> Callable[[], Tensor]:
    """Return a training step up to its gradients, which it returns as one vector."""
    model, waveform = trained_model_of(provider, device), waveforms(batch, device)
    labels = torch.arange(batch, device=device) % 2

    def run() -> Tensor:
        model.zero_grad()
        with autocast_of(provider, device):
            logits = model(waveform).logits
        F.cross_entropy(logits, labels).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    return run


@lru_cache(maxsize=1)
def expected_step(batch: int, device: str) -> Tensor:
    provider = PLANS[device].reference
    with settings_of(provider):
        return step_of(provider, batch, device)()


def bench_stage(
    benchmark: BenchmarkFixture, device: str, mode: str, batch: int, stage: str, provider: str
) -> None:
    """The stages of the model one by one, on the same inputs in the provider's dtype and layout."""
    return_memory()
    index = PLANS[device].stage_names.index(stage)
    expected = expected_of_stage(stage, mode, batch, device)
    with settings_of(provider):
        x = torch.empty_like(forms_of(provider, mode, batch, device)[index], device=device)
        if stage == "graphs":
            # They run in float32 everywhere, and choose nodes: rounded, they would choose others.
            x = x.float()
        x.copy_(reference_chain(mode, batch, device)[index])
        run = stage_of(provider, mode, stage, x, device)
        what = "gradient" if mode == "both" else "output"
        error = check_norm(run(), expected, tolerance_of(what, provider, device, stage))
        record(
            benchmark,
            run,
            device,
            name=stage,
            mode=mode,
            provider=provider,
            batch=batch,
            error=error,
        )


def chain_of(provider: str, mode: str, batch: int, device: str) -> list[Tensor]:
    """Return the inputs of all stages as the provider's model gives them, and the last output."""
    model = (trained_model_of if mode == "both" else model_of)(provider, device)
    xs = [waveforms(batch, device)]
    with torch.no_grad(), autocast_of(provider, device):
        xs.append(model._filter(xs[0]))
        for block in model.encoder:
            xs.append(block(xs[-1]))
    return xs


@cache
def forms_of(provider: str, mode: str, batch: int, device: str) -> list[Tensor]:
    """Return the inputs of all stages without their numbers: dtype and layout take no memory."""
    return [torch.empty_like(x, device="meta") for x in chain_of(provider, mode, batch, device)]


@lru_cache(maxsize=1)
def reference_chain(mode: str, batch: int, device: str) -> list[Tensor]:
    provider = PLANS[device].reference
    with settings_of(provider):
        return chain_of(provider, mode, batch, device)


@lru_cache(maxsize=1)
def expected_of_stage(stage: str, mode: str, batch: int, device: str) -> tuple[Tensor, ...]:
    provider, index = PLANS[device].reference, PLANS[device].stage_names.index(stage)
    x = reference_chain(mode, batch, device)[index]
    with settings_of(provider):
        return stage_of(provider, mode, stage, x, device)()


def stage_of(
    provider: str, mode: str, stage: str, x: Tensor, device: str
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a call of a stage, for its output or in mode "both" for all its gradients."""
    model = (trained_model_of if mode == "both" else model_of)(provider, device)

    def forward() -> Tensor:
        with autocast_of(provider, device):
            if stage == "front_end":
                return model._filter(x)
            if stage != "graphs":
                return model.encoder[int(stage.split()[1]) - 1](x)
            with torch.autocast(device, enabled=False):
                return model._classify(x).logits

    if mode == "forward":
        return torch.inference_mode()(lambda: (forward(),))
    inputs = [p for name, p in model.named_parameters() if p.requires_grad and is_of(name, stage)]
    if stage != "front_end":
        inputs.append(x.requires_grad_())
    out = forward().detach()
    generator = torch.Generator(device).manual_seed(1)
    # In the layout of the output, as the stage behind gives it.
    grad = torch.empty_like(out).copy_(torch.randn(out.shape, generator=generator, device=device))
    return lambda: torch.autograd.grad(forward(), inputs, grad)


def is_of(parameter: str, stage: str) -> bool:
    """Tell by its name whether a parameter of the model is read in a stage."""
    if stage == "front_end":
        return parameter.startswith("first_bn.")
    if stage == "graphs":
        return not parameter.startswith(("first_bn.", "encoder."))
    return parameter.startswith(f"encoder.{int(stage.split()[1]) - 1}.")
