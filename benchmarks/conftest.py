"""The device that is measured, the settings that all providers share, and the file of results."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what the benchmarks run on (cpu)"
    )
    parser.addoption(
        "--representative",
        action="store_true",
        help="few sizes, a minute of a GPU per suite; all where a suite names none",
    )
    parser.addoption(
        "--isa",
        choices=("avx2",),
        help="use no more of this CPU, so that all providers run as on a smaller one",
    )
    parser.addoption(
        "--results",
        type=Path,
        metavar="FILE",
        help="write each benchmark to FILE as soon as it has run, for report.py",
    )


def pytest_configure(config: pytest.Config) -> None:
    isa = config.getoption("--isa")
    if not isa:
        return
    if "torch" in sys.modules:
        raise pytest.UsageError("--isa: torch is loaded already, which reads it at its start")
    os.environ |= {
        "ATEN_CPU_CAPABILITY": isa,
        "MKL_ENABLE_INSTRUCTIONS": isa.upper(),
        "ONEDNN_MAX_CPU_ISA": isa.upper(),
        # Its keys leave that out: what was compiled for the whole CPU crashes here.
        "TORCHINDUCTOR_CACHE_DIR": str(config.rootpath / "build" / f"inductor_{isa}"),
    }
    from sparse_aasist._extension import limit_simd_level

    if limit_simd_level(isa) != isa:
        raise pytest.UsageError(f"--isa: this CPU or build has no {isa}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--representative"):
        return
    dropped = [item for item in items if not _is_representative(item)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


def _is_representative(item: pytest.Item) -> bool:
    chosen = getattr(item.module, "is_representative", None)
    return chosen is None or chosen(item.callspec.params)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device to measure on; a missing one is an error, never another device."""
    import torch

    from sparse_aasist._extension import REBUILD_HINT, has_kernel, load_failure

    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda but torch sees no CUDA device")
    if not has_kernel("topk_activation", name):
        reason = load_failure() or f"they were built without {name}"
        pytest.fail(f"--device {name} but there are no kernels for it: {reason}; {REBUILD_HINT}")
    return name


@pytest.fixture(scope="session")
def shared_columns(request: pytest.FixtureRequest, device: str) -> dict[str, str]:
    """What the figures of the run depend on. Whatever can fail at its end fails here, first."""
    from cases import start_file
    from provenance import provenance

    if path := request.config.getoption("--results"):
        start_file(path)
    return provenance(device, request.config)


@pytest.fixture(scope="session", autouse=True)
def _same_settings_for_all(device: str, shared_columns: dict[str, str]) -> None:
    import torch
    import torch._functorch.config

    from sparse_aasist.runtime import tune_process

    # Without it every provider is measured waiting for fresh pages.
    tune_process()
    if device == "cuda":
        # CUPTI that was torn down crashes beside CUDA graphs: torch/profiler/profiler.py.
        os.environ["TEARDOWN_CUPTI"] = "0"
        # CUDA graphs cannot be captured on the default one.
        torch.cuda.set_stream(torch.cuda.Stream())
    # A compiled backward pass may else be run once only, and is timed many times.
    torch._functorch.config.donated_buffer = False
    # Every collection would walk all that was imported: 0.1 s, twice per benchmark.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _describe(
    benchmark: object, shared_columns: dict[str, str], request: pytest.FixtureRequest
) -> None:
    benchmark.extra_info.update(shared_columns, isa=request.config.getoption("--isa"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write a benchmark that has passed to the file of results."""
    from cases import append_case

    report = yield
    path = item.config.getoption("--results")
    if path and report.when == "call" and report.passed:
        # Without figures under --benchmark-disable.
        benchmark = item.funcargs["benchmark"]
        if benchmark.stats:
            append_case(path, benchmark)
    return report
