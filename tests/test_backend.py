"""The choice between compiled kernels and references, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from topk_implementations import expected_selection
from torch import Tensor

from sparse_aasist import _extension
from sparse_aasist.ops import (
    backend,
    backend_report,
    topk_activation,
    topk_activation_reference,
)
from sparse_aasist.ops._backend import OPS, _backend_of_environment, _choose, _warn_once

needs_kernels = pytest.mark.skipif(
    not _extension.has_kernel("topk_activation", "cpu"), reason="this build has no cpu kernels"
)


@pytest.fixture
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which backend was chosen, before and after the test."""
    monkeypatch.delenv("SPARSE_AASIST_BACKEND", raising=False)
    cached = (_extension.load_failure, _backend_of_environment, _choose, _warn_once)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def nothing_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nothing_remembered: None
) -> None:
    """Make the extension look for its library in an empty folder."""
    monkeypatch.setattr(_extension, "_LIBRARY", tmp_path / "libsparse_aasist_ops.so")


@pytest.mark.usefixtures("nothing_compiled")
def test_without_kernels_the_reference_runs_and_says_so_once() -> None:
    x = torch.randn(3, 8)
    with pytest.warns(RuntimeWarning, match=r"plain PyTorch on cpu: nothing was compiled") as seen:
        for by in ("value", "abs", "relu"):
            got = topk_activation(x, 3, by=by)
            assert torch.equal(got, expected_selection(x, 3, by).activation)
    assert len(seen) == 1
    assert "PyTorch reference (nothing was compiled)" in backend_report()["topk_activation"]
    with backend("compiled"), pytest.raises(RuntimeError, match="no compiled kernel on cpu: noth"):
        topk_activation(x, 3)


@pytest.mark.usefixtures("nothing_compiled")
def test_a_library_that_does_not_load_is_reported() -> None:
    _extension._LIBRARY.write_bytes(b"not a library")
    x = torch.randn(3, 8)
    with pytest.warns(RuntimeWarning, match=r"libsparse_aasist_ops.so does not load"):
        assert torch.equal(topk_activation(x, 3), topk_activation_reference(x, 3))
    assert _extension.load() is False
    assert _extension.build_info()["compiled"] is False


def runs_as(x: Tensor) -> str:
    return type(topk_activation(x, 1).grad_fn).__name__


@needs_kernels
@pytest.mark.usefixtures("nothing_remembered")
def test_backend_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 5, requires_grad=True)
    compiled = runs_as(x)
    with backend("reference"):
        reference = runs_as(x)
        assert "reference (asked for)" in backend_report()["topk_activation"]
        with backend("compiled"):
            assert runs_as(x) == compiled
        assert runs_as(x) == reference != compiled
    assert runs_as(x) == compiled
    with pytest.raises(ValueError, match="must be one of compiled, reference, got 'cuda'"):
        backend("cuda").__enter__()
    # Blocks of two threads may close in any order.
    first, second = backend("reference"), backend("compiled")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert runs_as(x) == compiled
    second.__exit__(None, None, None)
    monkeypatch.setenv("SPARSE_AASIST_BACKEND", "reference")
    _backend_of_environment.cache_clear()
    assert runs_as(x) == reference
    monkeypatch.setenv("SPARSE_AASIST_BACKEND", "fast")
    _backend_of_environment.cache_clear()
    with pytest.raises(ValueError, match=r"SPARSE_AASIST_BACKEND must be one of .*got 'fast'"):
        topk_activation(x, 1)


@needs_kernels
@pytest.mark.parametrize("level", _extension.SIMD_LEVELS)
def test_backend_report_names_what_runs(level: str) -> None:
    if _extension.limit_simd_level(level) != level:
        pytest.skip(f"this CPU or build has no {level}")
    try:
        report = backend_report()
    finally:
        _extension.limit_simd_level(_extension.SIMD_LEVELS[-1])
    assert set(report) == set(OPS)
    vectors = "avx512" if level == "amx" else level
    for op, line in report.items():
        tiles = ", amx in bfloat16" if level == "amx" and op.startswith("residual_block") else ""
        assert line.startswith(f"cpu: compiled kernel, {vectors}{tiles}; cuda: ")
