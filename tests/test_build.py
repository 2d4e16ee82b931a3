"""The build: which torch it takes, which compilers, when CUDA, and what it says."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_extension
import cuda_check
import sparse_aasist_backend as backend
import torch_lookup
from ninja_file import Plan, compile_all, sources
from toolchain import (
    BuildError,
    Nvcc,
    cuda_archs,
    find_cxx,
    find_nvcc,
    gencode_flags,
    knows_amx,
    level_flags,
    max_jobs,
    simd_flags,
    tile_flags,
    want_cuda,
)
from torch_lookup import Torch, TorchNotFoundError, TorchUnusableError, check_version, find_torch

ROOT = Path(__file__).resolve().parents[1]
NVCC = Nvcc(Path("/toolkit/bin/nvcc"), Path("/toolkit"), "13.0")
CACHE_TAG = sys.implementation.cache_tag


@pytest.fixture(autouse=True)
def no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA", "CUDA_ARCHS", "TORCH_PYTHON"):
        monkeypatch.delenv(f"SPARSE_AASIST_{name}", raising=False)
    for name in ("MAX_JOBS", "CXX", "CUDA_HOME", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)


def fake_python(path: Path, answer: str) -> Path:
    """Write an `interpreter` that answers every question with `answer`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    path.chmod(0o755)
    return path


def answer(version: str = "2.13.0", cache_tag: str | None = CACHE_TAG) -> str:
    torch = f'{{"folder": "/env/torch", "version": "{version}", "cuda": null}}'
    return f'{{"cache_tag": "{cache_tag}", "torch": {torch}}}'


NO_TORCH = f'{{"cache_tag": "{CACHE_TAG}", "torch": null}}'


def test_finds_the_torch_that_is_installed_here() -> None:
    import torch

    found = find_torch()
    assert found.version == str(torch.__version__)
    assert found.cuda == torch.version.cuda
    assert (found.include / "torch/csrc/stable/library.h").is_file()


def test_an_isolated_environment_does_not_hide_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What pip does: another torch on PYTHONPATH belongs to the build, not to the target.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch/version.py").write_text("__version__ = '9.9.9'\ncuda = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_torch().version != "9.9.9"


def test_takes_the_torch_of_the_build_when_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"#!/bin/sh\n[ -n \"$PYTHONPATH\" ] && echo '{answer()}' || echo '{NO_TORCH}'\n"
    python = fake_python(tmp_path / "python", "")
    python.write_text(script)
    monkeypatch.setattr(torch_lookup.sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", "/build")
    assert find_torch() == Torch("2.13.0", None, Path("/env/torch"))


def test_looks_in_the_active_virtual_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = fake_python(tmp_path / "python", NO_TORCH)
    monkeypatch.setattr(torch_lookup.sys, "executable", str(empty))
    fake_python(tmp_path / "venv/bin/python", answer("2.12.1"))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    assert find_torch().version == "2.12.1"
    # Headers fit any Python, the build information module does not.
    fake_python(tmp_path / "venv/bin/python", answer(cache_tag="cpython-20"))
    with pytest.raises(TorchNotFoundError, match=r"install torch>=2\.11 first"):
        find_torch()


def test_override_names_the_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python", answer("2.11.0+cu130"))
    monkeypatch.setenv("SPARSE_AASIST_TORCH_PYTHON", str(python))
    assert find_torch().version == "2.11.0+cu130"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NO_TORCH, r"has no torch: install torch>=2\.11 there"),
        (answer(cache_tag="cpython-20"), "is cpython-20, but this build is for"),
        ("hello", "is no Python interpreter"),
        (None, "is no Python interpreter"),
    ],
)
def test_a_bad_override_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, message: str
) -> None:
    python = tmp_path / "python"
    if text is not None:
        fake_python(python, text)
    monkeypatch.setenv("SPARSE_AASIST_TORCH_PYTHON", str(python))
    with pytest.raises(TorchUnusableError, match=message):
        find_torch()


@pytest.mark.parametrize("hook", ["wheel", "editable"])
def test_requirements_of_a_build(
    hook: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get_requires = getattr(backend, f"get_requires_for_build_{hook}")
    assert get_requires() == []
    assert "building against torch" in capsys.readouterr().out

    def nothing() -> Torch:
        raise TorchNotFoundError("no torch")

    monkeypatch.setattr(backend, "find_torch", nothing)
    assert get_requires() == ["torch>=2.11"]
    assert capsys.readouterr().out.count("\n") == 1
    assert backend.get_requires_for_build_sdist() == []


@pytest.mark.parametrize("version", ["2.10.0", "2.9.1+cu128", "1.13.1"])
def test_an_old_torch_is_refused_not_replaced(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Torch(version, None, Path("/env/torch"))
    monkeypatch.setattr(backend, "find_torch", lambda: old)
    with pytest.raises(TorchUnusableError, match=r"too old: install torch>=2\.11"):
        backend.get_requires_for_build_wheel()


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.14.0a0+git123", "3.0.0"])
def test_new_versions_are_taken(version: str) -> None:
    check_version(Torch(version, None, Path("/env/torch")))


@pytest.mark.parametrize(
    ("switch", "nvcc", "torch_cuda", "wanted"),
    [
        (None, NVCC, "13.0", True),
        (None, NVCC, None, False),
        (None, None, "13.0", False),
        ("auto", NVCC, "13.0", True),
        ("auto", None, None, False),
        ("0", NVCC, "13.0", False),
        ("1", NVCC, "13.0", True),
        ("1", NVCC, None, True),
    ],
)
def test_cuda_switch(
    switch: str | None,
    nvcc: Nvcc | None,
    torch_cuda: str | None,
    wanted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if switch is not None:
        monkeypatch.setenv("SPARSE_AASIST_CUDA", switch)
    assert want_cuda(nvcc, torch_cuda) is wanted


def test_cuda_switch_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_AASIST_CUDA", "1")
    with pytest.raises(BuildError, match="SPARSE_AASIST_CUDA=1 but nvcc is missing"):
        want_cuda(None, "13.0")
    monkeypatch.setenv("SPARSE_AASIST_CUDA", "yes")
    with pytest.raises(BuildError, match="SPARSE_AASIST_CUDA=yes is not one of auto, 0, 1"):
        want_cuda(NVCC, "13.0")


def test_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gencode_flags(cuda_archs()) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("SPARSE_AASIST_CUDA_ARCHS", "9.0a, 12.0")
    assert gencode_flags(cuda_archs()) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
    ]
    for bad in ("90", "hopper", "9.0+SASS", ";"):
        with pytest.raises(BuildError, match="architecture"):
            gencode_flags(bad)


def test_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_jobs() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("MAX_JOBS", "3")
    assert max_jobs() == 3
    for bad in ("0", "many"):
        monkeypatch.setenv("MAX_JOBS", bad)
        with pytest.raises(BuildError, match=f"MAX_JOBS={bad}"):
            max_jobs()


def test_cuda_home_goes_before_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = fake_python(tmp_path / "bin/nvcc", "Cuda compilation tools, release 12.9, V12.9.1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_nvcc() == Nvcc(nvcc, tmp_path.resolve(), "12.9")


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert find_cxx() == (None, "no working C++ compiler, tried /nonexistent/c++")
    # One that starts but compiles nothing is no compiler either.
    broken = fake_python(tmp_path / "c++", "")
    broken.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CXX", str(broken))
    assert find_cxx()[0] is None


def test_summary_lines() -> None:
    torch = Torch("2.13.0+cpu", None, Path("/env/torch"))
    plan = Plan(ROOT, Path("/build"), ["c++"], torch, None, "8.0")
    summary = build_extension._summary
    assert summary(None, "no compiler") == (
        "sparse_aasist: built without kernels (no compiler); ops run on the PyTorch reference"
    )
    assert "no CUDA (torch is a CPU build), against torch 2.13.0+cpu" in summary(
        plan, build_extension._why_no_cuda(True, None)
    )
    with_cuda = Plan(ROOT, Path("/build"), ["c++"], torch, NVCC, "8.0;9.0+PTX")
    assert "CUDA 13.0 for 8.0;9.0+PTX" in summary(with_cuda, "")


def test_a_compile_error_is_an_error(tmp_path: Path) -> None:
    cxx, reason = find_cxx()
    if cxx is None:
        pytest.skip(reason)
    pytest.importorskip("pybind11")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/build_info.cpp").write_text("int fine;\n")
    (tmp_path / "csrc/broken.cpp").write_text("int broken( {\n")
    plan = Plan(tmp_path, tmp_path / "build", cxx, find_torch(), None, "")
    with pytest.raises(BuildError, match="does not compile"):
        compile_all(plan, tmp_path / "ops.so", tmp_path / "info.so")
    assert not (tmp_path / "ops.so").exists()


def test_ptxas_output_is_read() -> None:
    log = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 29 registers, used 0 barriers, 392 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    24 bytes stack frame, 16 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 392 bytes cmem[0]
"""
    assert cuda_check.parse_ptxas(log) == [
        cuda_check.KernelUse("first", "sm_80", 29, 0, 0),
        cuda_check.KernelUse("second", "sm_80", 255, 24, 4096),
    ]
    with pytest.raises(BuildError, match="says nothing about the registers of lost"):
        cuda_check.parse_ptxas("Compiling entry function 'lost' for 'sm_80'")


def test_cuda_check_without_nvcc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: None)
    assert cuda_check.main() == 2
    assert "nvcc is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_cuda_check_refuses_warnings_and_spills(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_nvcc() is None:
        pytest.skip("nvcc is missing")
    (tmp_path / "csrc").mkdir()
    kernel = tmp_path / "csrc/kernel.cu"
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_check, "ARCHITECTURES", ("sm_80",))
    kernel.write_text("__global__ void fill(float* y) { y[threadIdx.x] = 1; }\n")
    assert cuda_check.main() == 0
    kernel.write_text("__global__ void fill(float* y) { int unused; y[threadIdx.x] = 1; }\n")
    assert cuda_check.main() == 1
    assert "never referenced" in capsys.readouterr().out
    kernel.write_text(
        "__global__ void __launch_bounds__(1024, 2) spill(float* y) {\n"
        "  float v[64];\n"
        "  for (int i = 0; i < 64; ++i) v[i] = y[i * 1024 + threadIdx.x];\n"
        "  __syncthreads();\n"
        "  for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = v[63 - i] * v[i];\n"
        "}\n"
    )
    assert cuda_check.main() == 1
    assert "1 with spills" in capsys.readouterr().out


def test_every_source_is_compiled() -> None:
    cpp, cu = sources(ROOT)
    for op in ("topk_activation", "topk_linear"):
        assert ROOT / f"csrc/{op}.cpp" in cpp
        assert ROOT / f"csrc/cpu/{op}_cpu.cpp" in cpp
        assert ROOT / f"csrc/cuda/{op}_cuda.cu" in cu


@pytest.mark.parametrize(
    ("machine", "simd", "tiles"),
    [
        ("x86_64", ["portable", "avx2", "avx512"], ["portable", "amx"]),
        ("aarch64", ["portable"], ["portable"]),
    ],
)
def test_levels_of_cpu_kernels(
    machine: str, simd: list[str], tiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for levels, expected in ((simd_flags(), simd), (tile_flags(["c++"]), tiles)):
        assert list(levels) == expected
        assert all(f"-DSPARSE_AASIST_SIMD={level}" in flags for level, flags in levels.items())


def test_an_old_compiler_builds_plain_loops_for_amx(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-mamx*) exit 1;; esac\nexit 0\n')
    compiler.chmod(0o755)
    flags = tile_flags([str(compiler)])["amx"]
    assert "-mavx512f" in flags and not [flag for flag in flags if "amx-" in flag]
    assert level_flags([str(compiler)]) == ()


def test_an_old_assembler_counts_as_an_old_compiler(tmp_path: Path) -> None:
    cxx, reason = find_cxx()
    if cxx is None:
        pytest.skip(reason)
    # Takes what the compiler makes of an empty program, and refuses tiles.
    assembler = tmp_path / "as"
    assembler.write_text(
        '#!/bin/sh\nfor last; do :; done\n! grep -q tile "$last" && exec as "$@"\n'
    )
    assembler.chmod(0o755)
    assert not knows_amx([*cxx, f"-B{tmp_path}/"])


@pytest.mark.parametrize(
    "name",
    sorted(
        str(path.relative_to(ROOT / "csrc"))
        for folder in ("cpu", "tiles")
        for path in ROOT.glob(f"csrc/{folder}/*_cpu.cpp")
    ),
)
def test_levels_share_no_function(name: str, tmp_path: Path) -> None:
    """The linker keeps one copy of a shared function, perhaps one that this CPU cannot run."""
    cxx, reason = find_cxx()
    if cxx is None or shutil.which("nm") is None:
        pytest.skip(reason or "nm is missing")
    levels = tile_flags(cxx) if name.startswith("tiles") else simd_flags()
    for level, flags in levels.items():
        target = tmp_path / f"{level}.o"
        # Without optimisation nothing is inlined by chance.
        command = [*cxx, "-std=c++17", "-O0", "-Wno-psabi", f"-I{ROOT / 'csrc'}", *flags]
        subprocess.run([*command, "-c", str(ROOT / "csrc" / name), "-o", str(target)], check=True)
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", str(target)],
            capture_output=True,
            text=True,
            check=True,
        )
        functions = [line for line in listing.stdout.splitlines() if line.split()[1] in "TW"]
        assert functions
        assert not [line for line in functions if f"sparse_aasist::{level}::" not in line]
