"""The compilers of a build: which there are, which are wanted, and with what flags they run."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CUDA_VARIABLE = "SPARSE_AASIST_CUDA"
CUDA_ARCHS_VARIABLE = "SPARSE_AASIST_CUDA_ARCHS"
# Never taken from a visible GPU: a build machine often has none, or another one.
DEFAULT_CUDA_ARCHS = "8.0;9.0+PTX"

CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# Sources in csrc/cpu/ are compiled once per SIMD level, those in csrc/tiles/ once per tile level;
# csrc/simd_level.cpp chooses one when the program runs.
_AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_AMX = ("-mavx512bf16", "-mamx-tile", "-mamx-bf16")
_X86_SIMD_FLAGS = {"portable": (), "avx2": _AVX2, "avx512": (*_AVX2, *_AVX512)}
NVCC_FLAGS = ("-std=c++17", "-O3", "-Werror", "all-warnings")


class BuildError(RuntimeError):
    """The build cannot go on; one sentence says what is missing and what to do."""


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler, the folder of its toolkit, and its version ("13.0")."""

    executable: Path
    home: Path
    version: str


def simd_flags() -> dict[str, tuple[str, ...]]:
    """Return the compiler flags of each SIMD level that kernels are built for on this machine."""
    return _flags_here(_X86_SIMD_FLAGS)


def tile_flags(cxx: list[str]) -> dict[str, tuple[str, ...]]:
    """Return likewise those of each level of products of tiles."""
    amx = _AMX if knows_amx(cxx) else ()
    return _flags_here({"portable": (), "amx": (*_AVX2, *_AVX512, *amx)})


def level_flags(cxx: list[str]) -> tuple[str, ...]:
    """Return the flags of csrc/simd_level.cpp, which chooses no level that is plain loops."""
    return ("-DSPARSE_AASIST_HAS_AMX",) if knows_amx(cxx) else ()


def knows_amx(cxx: list[str]) -> bool:
    """Tell whether a compiler and its assembler know AMX (GCC from 11 on, Clang from 12 on)."""
    instructions = ("tilerelease", "tdpbf16ps %tmm2, %tmm1, %tmm0", "vcvtneps2bf16 %zmm0, %ymm0")
    body = " ".join(f'__asm__ volatile("{instruction}");' for instruction in instructions)
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and _compiles([*cxx, *_AMX], f"int main() {{ {body} }}\n")


def _flags_here(on_x86: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    levels = on_x86 if platform.machine() in ("x86_64", "AMD64") else {"portable": ()}
    return {level: (f"-DSPARSE_AASIST_SIMD={level}", *flags) for level, flags in levels.items()}


def find_cxx() -> tuple[list[str] | None, str]:
    """Return (command of a C++ compiler that works, "") or (None, why there is none)."""
    named = os.environ.get("CXX")
    candidates = [shlex.split(named)] if named else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        # A standard header and a link: a compiler without its library counts as none.
        if _compiles(
            command, "#include <vector>\nint main() { return std::vector<int>().size(); }\n"
        ):
            return command, ""
    tried = ", ".join(shlex.join(command) for command in candidates)
    return None, f"no working C++ compiler, tried {tried}"


def _compiles(command: list[str], program: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(program)
        try:
            run = subprocess.run(
                [*command, str(source), "-o", str(source.with_suffix(""))], capture_output=True
            )
        except OSError:
            return False
        return run.returncode == 0


def find_nvcc() -> Nvcc | None:
    """Return nvcc of $CUDA_HOME, else of /usr/local/cuda, else the one on PATH, else None."""
    named = os.environ.get("CUDA_HOME")
    candidates = [Path(named) / "bin" / "nvcc"] if named else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    on_path = shutil.which("nvcc")
    if on_path:
        candidates.append(Path(on_path))
    for executable in candidates:
        if os.access(executable, os.X_OK):
            return _describe_nvcc(executable)
    return None


def _describe_nvcc(executable: Path) -> Nvcc:
    run = subprocess.run([str(executable), "--version"], capture_output=True, text=True)
    version = re.search(r"release (\d+\.\d+)", run.stdout)
    if version is None:
        raise BuildError(f"{executable} does not tell its version: {run.stderr.strip()}")
    # nvcc on PATH may be a wrapper script, far from the toolkit: ask it where the toolkit is.
    dry = subprocess.run(
        [str(executable), "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True
    )
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
    home = Path(top.group(1).strip()) if top else executable.parent.parent
    return Nvcc(executable, home.resolve(), version.group(1))


def want_cuda(nvcc: Nvcc | None, torch_cuda: str | None) -> bool:
    """Decide by $SPARSE_AASIST_CUDA (auto, 0 or 1) whether the CUDA sources are compiled.

    auto: nvcc is there and torch is a CUDA build. 1: always, also beside a CPU torch, where the
    kernels compile and load but never run. A visible GPU plays no part.

    Raises:
        BuildError: 1 without nvcc, or another value.
    """
    switch = os.environ.get(CUDA_VARIABLE, "auto")
    if switch == "0":
        return False
    if switch == "auto":
        return nvcc is not None and torch_cuda is not None
    if switch != "1":
        raise BuildError(f"{CUDA_VARIABLE}={switch} is not one of auto, 0, 1")
    if nvcc is None:
        raise BuildError(
            f"{CUDA_VARIABLE}=1 but nvcc is missing: looked in $CUDA_HOME/bin, "
            "/usr/local/cuda/bin and PATH; install the CUDA toolkit or set CUDA_HOME"
        )
    return True


def cuda_archs() -> str:
    """Return the CUDA architectures to compile for, such as "8.0;9.0+PTX"."""
    return os.environ.get(CUDA_ARCHS_VARIABLE) or DEFAULT_CUDA_ARCHS


def gencode_flags(archs: str) -> list[str]:
    """Return nvcc's -gencode flags for "8.0;9.0+PTX" (+PTX adds code for later devices).

    Raises:
        BuildError: an entry is not MAJOR.MINOR, MAJOR.MINOR+PTX or MAJOR.MINORa.
    """
    flags = []
    for entry in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            raise BuildError(
                f"{CUDA_ARCHS_VARIABLE}={archs}: {entry!r} is not an architecture like 9.0 or "
                "9.0+PTX"
            )
        number = "".join(match.group(1, 2, 3))
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match.group(4):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not flags:
        raise BuildError(f"{CUDA_ARCHS_VARIABLE}={archs!r} names no architecture")
    return flags


def max_jobs() -> int:
    """Return how many compilers run at once: $MAX_JOBS, else the usable cores."""
    named = os.environ.get("MAX_JOBS")
    if named is None:
        return len(os.sched_getaffinity(0))
    if not named.isdigit() or int(named) < 1:
        raise BuildError(f"MAX_JOBS={named} is not a positive whole number")
    return int(named)
