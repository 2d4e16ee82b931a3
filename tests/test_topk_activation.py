"""topk_activation: every implementation against one independent oracle, bit for bit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_aasist import _extension
from sparse_aasist.ops import backend_report, topk_activation, topk_activation_reference
from sparse_aasist.ops._backend import _choose, _warn_once
from toolchain import find_cxx

ROOT = Path(__file__).resolve().parents[1]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (1, 31, 100, 129, 160, 320)
# Numbers of csrc/topk_activation.h: FloatFormat.
FORMATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Implementation = Callable[..., Tensor]


def oracle_mask(x: Tensor, k: int, by: str) -> np.ndarray:
    """Return the kept entries by Python's own stable sort, row by row."""
    # Every value of the four formats is exact in float64.
    rows = x.detach().cpu().double().numpy().reshape(-1, x.shape[-1])
    mask = np.zeros(rows.shape, dtype=bool)
    for row, kept in zip(rows, mask, strict=True):
        score = [abs(value) if by == "abs" else value for value in row.tolist()]
        # NaN is unequal to itself: (False, ...) sorts it first, and no NaN is ever compared.
        order = sorted(
            range(len(score)),
            key=lambda j: (False, 0.0) if score[j] != score[j] else (True, -score[j]),
        )
        kept[order[:k]] = True
    return mask.reshape(x.shape)


def bits(x: Tensor) -> Tensor:
    return x.detach().cpu().contiguous().view(BITS[x.element_size()])


def assert_exact(implementation: Implementation, x: Tensor, k: int, by: str) -> None:
    """Kept entries keep every bit (NaN payload and sign of zero too), the others are +0."""
    y = implementation(x, k, by=by)
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous()
    mask = torch.from_numpy(oracle_mask(x, k, by))
    assert torch.equal(bits(y), torch.where(mask, bits(x), 0))


@pytest.fixture(scope="session")
def simt_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA source compiled for the CPU, with sanitizers."""
    cxx, reason = find_cxx()
    if cxx is None:
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("simt") / "run_topk_activation"
    simt = ROOT / "tests" / "simt"
    sources = [ROOT / "csrc/cuda/topk_activation_cuda.cu", simt / "run_topk_activation.cpp"]
    flags = "-std=c++17 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined"
    command = [*cxx, *flags.split(), "-fno-sanitize-recover=all", "-x", "c++"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{simt}", *map(str, sources), "-o", str(program)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return program


def run_simt(program: Path, x: Tensor, k: int, *, by: str = "value") -> Tensor:
    """Run the CUDA source on the CPU, and hold its mask to the oracle."""
    dim = x.shape[-1]
    rows = x.numel() // dim
    command = [str(program), *map(str, (FORMATS[x.dtype], rows, dim, k, int(by == "abs")))]
    run = subprocess.run(command, input=bits(x).numpy().tobytes(), capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    if x.numel() == 0:
        return torch.empty_like(x)
    size = x.numel() * x.element_size()
    mask = np.frombuffer(run.stdout[size:], dtype=np.uint8).reshape(x.shape)
    assert np.array_equal(mask, oracle_mask(x, k, by))
    y = torch.frombuffer(bytearray(run.stdout[:size]), dtype=x.dtype)
    return y.reshape(x.shape)


def run_compiled(x: Tensor, k: int, *, by: str = "value") -> Tensor:
    return topk_activation(x, k, by=by)


def run_cuda(x: Tensor, k: int, *, by: str = "value") -> Tensor:
    return topk_activation(x.cuda(), k, by=by)


def need_kernel(device_type: str) -> None:
    if not _extension.has_kernel("topk_activation", device_type):
        pytest.skip(f"this build has no {device_type} kernels")


@pytest.fixture(
    params=["reference", "compiled", "simt", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    if request.param == "reference":
        return topk_activation_reference
    if request.param == "simt":
        return partial(run_simt, request.getfixturevalue("simt_program"))
    need_kernel("cuda" if request.param == "cuda" else "cpu")
    return run_cuda if request.param == "cuda" else run_compiled


def random_rows(rows: int, dim: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", SIZES)
def test_selection(implementation: Implementation, dim: int, dtype: torch.dtype) -> None:
    x = random_rows(7, dim, dtype)
    for k in sorted({1, max(1, dim // 2), dim}):
        for by in ("value", "abs"):
            assert_exact(implementation, x, k, by)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(implementation: Implementation, dtype: torch.dtype) -> None:
    nan, inf, tiny = float("nan"), float("inf"), torch.finfo(dtype).tiny / 4
    x = torch.tensor(
        [
            [0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0],
            [-0.0, 0.0, -1.0, -0.0, 0.0, -2.0, tiny],
            [2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5],
            [-3.0, 3.0, -3.0, 3.0, 1.0, -1.0, 3.0],
            [nan, 1.0, inf, -inf, nan, inf, -nan],
            [-nan, -nan, nan, nan, nan, -nan, nan],
            [-inf, inf, -inf, inf, 0.0, tiny, -tiny],
            [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0],
        ],
        dtype=torch.float64,
    ).to(dtype)
    # Conversions drop payloads: give one NaN another pattern by hand.
    x.view(BITS[x.element_size()])[5, 2] = -3
    for k in range(1, 8):
        for by in ("value", "abs"):
            assert_exact(implementation, x, k, by)


def test_many_ties_keep_the_lowest_indices(implementation: Implementation) -> None:
    x = torch.randint(0, 4, (20, 100), generator=torch.Generator().manual_seed(3)).float() - 2
    for k in (1, 13, 50, 99):
        assert_exact(implementation, x, k, "value")
        assert_exact(implementation, x, k, "abs")


@pytest.mark.parametrize("k", [1, 8])
def test_empty_batch(implementation: Implementation, k: int) -> None:
    assert implementation(torch.empty(0, 8), k).shape == (0, 8)


def test_non_contiguous_and_other_shapes(implementation: Implementation) -> None:
    base = random_rows(60, 62, torch.float32)
    for x in (base.t(), base[::3, 1::2], base[:1].expand(5, 62), base[0], base.view(4, 15, 62)):
        assert_exact(implementation, x, 9, "value")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_row(data: st.DataObject) -> None:
    row = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=40))
    k = data.draw(st.integers(1, len(row)))
    by = data.draw(st.sampled_from(["value", "abs"]))
    x = torch.tensor([row])
    assert_exact(topk_activation, x, k, by)
    assert_exact(topk_activation_reference, x, k, by)


@pytest.mark.parametrize("function", [topk_activation, topk_activation_reference])
@pytest.mark.parametrize("by", ["value", "abs"])
def test_gradient_passes_where_kept(function: Implementation, by: str) -> None:
    # Ties and kept zeros: y != 0 is not the mask.
    x = torch.tensor([[0.0, -1.0, 0.0, 0.0, -1.0], [5.0, -6.0, 5.0, 5.0, 7.0]], requires_grad=True)
    grad = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, float("nan"), 8.0, float("inf"), 9.0]])
    (got,) = torch.autograd.grad(function(x, 2, by=by), x, grad)
    kept = torch.from_numpy(oracle_mask(x, 2, by))
    torch.testing.assert_close(got, torch.where(kept, grad, 0.0), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("function", [topk_activation, topk_activation_reference])
def test_gradients_of_an_empty_batch_and_of_strided_inputs(function: Implementation) -> None:
    empty = torch.empty(0, 8, requires_grad=True)
    function(empty, 3).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 8)
    base = random_rows(6, 10, torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(function(base.t(), 2).sum(), base)
    assert np.array_equal(got.numpy().astype(bool), oracle_mask(base.t(), 2, "value").T)


@pytest.mark.parametrize("function", [topk_activation, topk_activation_reference])
@pytest.mark.parametrize("by", ["value", "abs"])
def test_gradcheck(function: Implementation, by: str) -> None:
    # Distinct magnitudes, far apart: no finite difference crosses a tie.
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    x = ((order + 1.0) * torch.where(order % 3 == 0, -1, 1)).double().view(2, 12).requires_grad_()
    call = partial(function, k=5, by=by)
    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


def test_raw_op_passes_opcheck() -> None:
    need_kernel("cpu")
    topk_activation(torch.ones(1, 2), 1)  # registers the fake
    op = torch.ops.sparse_aasist.topk_activation.default
    for x in (random_rows(3, 10, torch.float32), random_rows(6, 5, torch.float64).t()):
        torch.library.opcheck(op, (x, 4, False))
        torch.library.opcheck(op, (x, 1, True))


def test_raw_op_refuses_what_would_break_it() -> None:
    need_kernel("cpu")
    topk_activation(torch.ones(1, 2), 1)
    op = torch.ops.sparse_aasist.topk_activation.default
    for x, k in ((torch.ones(2, 3), 0), (torch.ones(2, 3), 4), (torch.ones(2, 0), 1)):
        with pytest.raises(RuntimeError, match="k must be in 1"):
            op(x, k, False)
    with pytest.raises(RuntimeError, match="last dimension"):
        op(torch.tensor(1.0), 1, False)
    with pytest.raises(RuntimeError, match="must be float32"):
        op(torch.ones(2, 3, dtype=torch.int32), 1, False)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["value", "abs"])
def test_compiles_as_one_graph(by: str) -> None:
    compiled = torch.compile(partial(topk_activation, k=3, by=by), fullgraph=True)
    x = random_rows(4, 12, torch.float32).requires_grad_()
    y = compiled(x)
    assert_exact(lambda x, k, by: y, x, 3, by)
    (got,) = torch.autograd.grad(y.sum(), x)
    assert np.array_equal(got.numpy().astype(bool), oracle_mask(x, 3, by))
    with torch.no_grad():
        assert torch.equal(bits(compiled(x)), bits(y))


BAD_ARGUMENTS = [
    (torch.ones(2, 5), 0, "value", ValueError, r"k must be in 1\.\.5 .*got 0"),
    (torch.ones(2, 5), 6, "value", ValueError, r"k must be in 1\.\.5 .*got 6"),
    (torch.ones(2, 5), -1, "value", ValueError, "got -1"),
    (torch.ones(2, 5), 2.0, "value", TypeError, "k must be an int, got 2.0"),
    (torch.ones(2, 5), True, "value", TypeError, "k must be an int, got True"),
    (torch.ones(2, 5), None, "value", TypeError, "k must be an int, got None"),
    (torch.ones(2, 5, dtype=torch.int64), 1, "value", TypeError, "got torch.int64"),
    (torch.ones(2, 5, dtype=torch.complex64), 1, "value", TypeError, "got torch.complex64"),
    (np.ones((2, 5), dtype=np.float32), 1, "value", TypeError, "must be a tensor, got ndarray"),
    (torch.ones(2, 0), 1, "value", ValueError, r"got shape \(2, 0\)"),
    (torch.tensor(1.0), 1, "value", ValueError, r"got shape \(\)"),
    (torch.ones(2, 5), 1, "magnitude", ValueError, "by must be 'value' or 'abs', got 'magnitude'"),
]


@pytest.mark.parametrize("function", [topk_activation, topk_activation_reference])
@pytest.mark.parametrize(("x", "k", "by", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(
    function: Implementation, x: Tensor, k: int, by: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(x, k, by=by)


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the extension look for its library in an empty folder, with nothing remembered."""
    monkeypatch.setattr(_extension, "_LIBRARY", tmp_path / "libsparse_aasist_ops.so")
    cached = (_extension.load_failure, _choose, _warn_once)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("nothing_compiled")
def test_without_kernels_the_reference_runs_and_says_so_once() -> None:
    x = random_rows(3, 8, torch.float32)
    with pytest.warns(RuntimeWarning, match=r"plain PyTorch on cpu: nothing was compiled") as seen:
        assert_exact(topk_activation, x, 3, "value")
        assert_exact(topk_activation, x, 2, "abs")
    assert len(seen) == 1
    assert "PyTorch reference (nothing was compiled)" in backend_report()["topk_activation"]


@pytest.mark.usefixtures("nothing_compiled")
def test_a_library_that_does_not_load_is_reported() -> None:
    _extension._LIBRARY.write_bytes(b"not a library")
    with pytest.warns(RuntimeWarning, match=r"libsparse_aasist_ops.so does not load"):
        assert_exact(topk_activation, random_rows(3, 8, torch.float32), 3, "value")
    assert _extension.load() is False
    assert _extension.build_info()["compiled"] is False


def test_backend_report_names_what_runs() -> None:
    need_kernel("cpu")
    assert backend_report()["topk_activation"].startswith("cpu: compiled kernel; cuda: ")
