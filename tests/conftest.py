"""Markers, optional reference data and the CUDA policy, handled once for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_cuda: needs a CUDA device")
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("needs_cuda") is None:
            continue
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            item.add_marker(pytest.mark.usefixtures("_fail_without_cuda"))
        else:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture
def _fail_without_cuda() -> None:
    pytest.fail("FAIL_WITHOUT_CUDA=1 is set but torch sees no CUDA device")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of golden outputs of the published implementation; skips where it is absent."""
    folder = SHARED_DATA / "golden"
    if not folder.is_dir():
        pytest.skip("golden outputs (shared/data/golden) are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Folder of the published weights; skips where it is absent."""
    folder = SHARED_DATA / "weights"
    if not folder.is_dir():
        pytest.skip("published weights (shared/data/weights) are not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def _keep_subnormals() -> Iterator[None]:
    """Undo what commands do to the whole process: they flush subnormals, other tests need them."""
    import torch

    yield
    torch.set_flush_denormal(False)
