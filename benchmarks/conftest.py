"""The device that is measured, and the settings that all providers share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what the benchmarks run on (cpu)"
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device to measure on; a missing one is an error, never another device."""
    import torch

    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda but torch sees no CUDA device")
    return name


@pytest.fixture(scope="session", autouse=True)
def _same_settings_for_all() -> None:
    import torch._functorch.config

    from sparse_aasist.runtime import tune_process

    # Without it every provider is measured waiting for fresh pages.
    tune_process()
    # A compiled backward pass may else be run once only, and is timed many times.
    torch._functorch.config.donated_buffer = False
