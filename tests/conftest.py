"""Markers, optional reference data and the CUDA policy, handled once for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparse_aasist._extension import SIMD_LEVELS, has_kernel, limit_simd_level

if TYPE_CHECKING:
    from bfloat16_block import BlockOps
    from encoder_implementations import EncoderFunctions, EncoderSanitized
    from graph_implementations import GraphFunctions, GraphSanitized
    from kernel_program import KernelProgram
    from topk_implementations import TopkFunctions, TopkSanitized

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


def _program(name: str, ops: tuple[str, ...], folder: Path) -> Iterator[KernelProgram]:
    from kernel_program import KernelProgram, build_program

    main = Path(__file__).parent / "simt" / f"serve_{name}.cpp"
    program = KernelProgram(build_program(main, ops, folder))
    yield program
    program.close()


@pytest.fixture(scope="session")
def topk_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProgram]:
    """TopK kernels outside of torch, under sanitizers."""
    folder = tmp_path_factory.mktemp("topk_kernels")
    yield from _program("topk", ("topk_activation", "topk_linear"), folder)


@pytest.fixture(scope="session")
def graph_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProgram]:
    """Graph kernels outside of torch, under sanitizers."""
    folder = tmp_path_factory.mktemp("graph_kernels")
    yield from _program(
        "graph", ("graph_attention", "graph_pool", "graph_stack", "row_passes"), folder
    )


@pytest.fixture(scope="session")
def encoder_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProgram]:
    """Kernels of the encoder outside of torch, under sanitizers."""
    folder = tmp_path_factory.mktemp("encoder_kernels")
    yield from _program("encoder", ("front_end", "residual_block"), folder)


VECTOR_LEVELS, TILE_LEVELS = SIMD_LEVELS[:-1], (SIMD_LEVELS[0], SIMD_LEVELS[-1])


def _on_a_cpu(levels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind}-{level}" for kind in ("compiled", "sanitized") for level in levels)


CPU_IMPLEMENTATIONS = ("reference", *_on_a_cpu(VECTOR_LEVELS))
GPU_IMPLEMENTATIONS = ("device-code", pytest.param("cuda", marks=pytest.mark.needs_cuda))
IMPLEMENTATIONS = (*CPU_IMPLEMENTATIONS, *GPU_IMPLEMENTATIONS)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def topk(request: pytest.FixtureRequest) -> TopkFunctions | TopkSanitized:
    """Every implementation of the TopK ops, one after the other."""
    from topk_implementations import TopkFunctions, TopkSanitized

    return _implementation(request, "topk", "topk_activation", TopkFunctions, TopkSanitized)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def graph(request: pytest.FixtureRequest) -> GraphFunctions | GraphSanitized:
    """Every implementation of the graph ops, one after the other."""
    from graph_implementations import GraphFunctions, GraphSanitized

    return _implementation(request, "graph", "graph_attention", GraphFunctions, GraphSanitized)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def filter_bank(request: pytest.FixtureRequest) -> EncoderFunctions | EncoderSanitized:
    """Every implementation of front_end, one after the other."""
    from encoder_implementations import EncoderFunctions, EncoderSanitized

    return _implementation(request, "encoder", "front_end", EncoderFunctions, EncoderSanitized)


@pytest.fixture(scope="session", params=(*_on_a_cpu(TILE_LEVELS), *GPU_IMPLEMENTATIONS))
def block_ops(request: pytest.FixtureRequest) -> BlockOps | EncoderSanitized:
    """Every implementation of the residual block in bfloat16."""
    from bfloat16_block import BlockOps
    from encoder_implementations import EncoderSanitized

    return _implementation(request, "encoder", "residual_block", BlockOps, EncoderSanitized)


@pytest.fixture(scope="session", params=CPU_IMPLEMENTATIONS)
def encoder(request: pytest.FixtureRequest) -> EncoderFunctions | EncoderSanitized:
    """Every implementation of the residual block in float32: those of a CPU."""
    from encoder_implementations import EncoderFunctions, EncoderSanitized

    return _implementation(request, "encoder", "residual_block", EncoderFunctions, EncoderSanitized)


def _implementation(
    request: pytest.FixtureRequest, name: str, op: str, functions: type, sanitized: type
) -> object:
    from implementations import ON_DEVICE

    kind, _, level = request.param.partition("-")
    if kind == "reference":
        return functions("reference")
    if kind == "device":
        return sanitized(request.getfixturevalue(f"{name}_program"), ON_DEVICE)
    device = "cuda" if kind == "cuda" else "cpu"
    if not has_kernel(op, device):
        reason = f"this build has no {device} kernels"
        if kind == "cuda" and os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail(f"FAIL_WITHOUT_CUDA=1 is set but {reason}")
        pytest.skip(reason)
    if kind == "cuda":
        return functions("compiled", "cuda")
    has_level = limit_simd_level(level) == level
    limit_simd_level(SIMD_LEVELS[-1])
    if not has_level:
        pytest.skip(f"this CPU or build has no {level}")
    if kind == "compiled":
        return functions("compiled", simd=level)
    return sanitized(request.getfixturevalue(f"{name}_program"), SIMD_LEVELS.index(level))


@pytest.fixture(scope="session", autouse=True)
def _keep_freed_memory() -> None:
    """Tune malloc as the commands do: whole models run several times faster on a CPU."""
    from sparse_aasist.runtime import tune_process

    tune_process()


@pytest.fixture(autouse=True)
def _keep_subnormals() -> Iterator[None]:
    """Undo what commands do to the whole process: they flush subnormals, other tests need them."""
    import torch

    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
