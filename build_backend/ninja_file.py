"""Write and run the ninja file that compiles the ops library and the build information module."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from toolchain import (
    CXX_FLAGS,
    NVCC_FLAGS,
    BuildError,
    Nvcc,
    gencode_flags,
    level_flags,
    max_jobs,
    simd_flags,
    tile_flags,
)
from torch_lookup import MINIMUM_TORCH, Torch

# Ops built for this version load in every later torch: LibTorch's stable ABI.
_STABLE_ABI_DEFINE = "-DTORCH_TARGET_VERSION=0x020b000000000000"


@dataclass(frozen=True)
class Plan:
    """All that decides how the sources are compiled; `nvcc` is None without CUDA."""

    root: Path
    build_dir: Path
    cxx: list[str]
    torch: Torch
    nvcc: Nvcc | None
    archs: str


def compile_all(plan: Plan, ops_library: Path, info_module: Path) -> None:
    """Compile both shared objects to the given paths.

    Raises:
        BuildError: ninja, pybind11 or Python's headers are missing, or a compiler fails.
    """
    plan.build_dir.mkdir(parents=True, exist_ok=True)
    for target in (ops_library, info_module):
        target.parent.mkdir(parents=True, exist_ok=True)
    (plan.build_dir / "build_config.h").write_text(_build_config(plan))
    (plan.build_dir / "build.ninja").write_text(_ninja_text(plan, ops_library, info_module))
    ninja = shutil.which("ninja")
    if ninja is None:
        raise BuildError("ninja is missing: pip install ninja")
    command = [ninja, "-C", str(plan.build_dir), "-j", str(max_jobs())]
    sys.stdout.flush()
    if subprocess.run(command).returncode != 0:
        raise BuildError("the extension does not compile: the compiler's message is above")


def sources(root: Path) -> tuple[list[Path], list[Path]]:
    """Return (C++ sources of the ops, CUDA sources) below `root`/csrc."""
    csrc = root / "csrc"
    cpp = sorted(path for path in csrc.rglob("*.cpp") if path.name != "build_info.cpp")
    return cpp, sorted(csrc.rglob("*.cu"))


def _build_config(plan: Plan) -> str:
    values = {
        "SPARSE_AASIST_CUDA_VERSION": plan.nvcc.version if plan.nvcc else "",
        "SPARSE_AASIST_CUDA_ARCHITECTURES": plan.archs if plan.nvcc else "",
        "SPARSE_AASIST_STABLE_ABI": MINIMUM_TORCH,
        "SPARSE_AASIST_SIMD_LEVELS": " ".join(simd_flags() | tile_flags(plan.cxx)),
        "SPARSE_AASIST_TORCH_VERSION": plan.torch.version,
    }
    lines = [f'#define {name} "{value}"' for name, value in values.items()]
    return "#pragma once\n" + "\n".join(lines) + "\n"


def _python_includes() -> list[str]:
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").is_file():
        raise BuildError(
            f"Python.h is missing in {python}: install the development files of this Python "
            "(python3-dev on Debian and Ubuntu)"
        )
    try:
        import pybind11
    except ImportError as error:
        raise BuildError("pybind11 is missing: pip install pybind11") from error
    return [pybind11.get_include(), str(python)]


def _ninja_text(plan: Plan, ops_library: Path, info_module: Path) -> str:
    # File names inside the binaries do not tell where the sources or torch lay.
    prefix_map = f"-ffile-prefix-map={plan.root}/="
    torch_map = f"-ffile-prefix-map={plan.torch.folder}/=torch/"
    includes = [f"-I{plan.root / 'csrc'}", f"-isystem {_quote(plan.torch.include)}"]
    ops_flags = [*CXX_FLAGS, prefix_map, torch_map, _STABLE_ABI_DEFINE, *includes]
    # Without -ltorch among the needed libraries the weak stream symbol of a CUDA torch stays null.
    link = [f"-L{_quote(plan.torch.lib)}", "-Wl,--no-as-needed", "-ltorch", "-lc10", "-ltorch_cpu"]
    lines: list[str] = []
    objects: list[str] = []
    cpp, cu = sources(plan.root)
    if plan.nvcc:
        ops_flags += ["-DSPARSE_AASIST_WITH_CUDA", f"-isystem {_quote(plan.nvcc.home / 'include')}"]
        # Static: the library then loads where there is no driver and no CUDA runtime.
        link += [f"-L{_quote(plan.nvcc.home / 'lib64')}", "-lcudart_static"]
        link += ["-ldl", "-lrt", "-lpthread"]
    else:
        cu = []
    levels = {"cpu": simd_flags(), "tiles": tile_flags(plan.cxx)}
    for source in (*cpp, *cu):
        name = source.relative_to(plan.root / "csrc")
        if source.parent.name in levels:
            for level, flags in levels[source.parent.name].items():
                objects.append(f"{name}.{level}.o")
                lines.append(f"build {objects[-1]}: cxx {_escape(source)}")
                lines.append(f"  simd = {' '.join(flags)}")
        else:
            objects.append(f"{name}.o")
            rule = "nvcc" if source.suffix == ".cu" else "cxx"
            lines.append(f"build {objects[-1]}: {rule} {_escape(source)}")
            if name.name == "simd_level.cpp":
                lines.append(f"  simd = {' '.join(level_flags(plan.cxx))}")
    info_source = plan.root / "csrc" / "build_info.cpp"
    info_includes = " ".join(f"-isystem {_quote(path)}" for path in _python_includes())
    lines += [
        f"build {_escape(ops_library)}: link {' '.join(objects)}",
        f"  link_flags = {' '.join(link)}",
        # Python 3's own symbols come from the interpreter that imports the module.
        f"build build_info.o: cxx {_escape(info_source)} | build_config.h",
        f"  flags = {' '.join([*CXX_FLAGS, prefix_map, '-I.', info_includes])}",
        f"build {_escape(info_module)}: link build_info.o",
        "  link_flags =",
    ]
    return "\n".join([*_rules(plan, ops_flags, prefix_map), *lines, ""])


def _rules(plan: Plan, ops_flags: list[str], prefix_map: str) -> list[str]:
    cxx = " ".join(_quote(word) for word in plan.cxx)
    rules = [
        f"flags = {' '.join(ops_flags)}",
        "rule cxx",
        f"  command = {cxx} $flags $simd -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = c++ $out",
        "rule link",
        f"  command = {cxx} -shared $in $link_flags -o $out",
        "  description = link $out",
    ]
    if plan.nvcc:
        host = f"-Xcompiler -fPIC,-fvisibility=hidden,{prefix_map} -ccbin {_quote(plan.cxx[-1])}"
        flags = " ".join([*NVCC_FLAGS, *gencode_flags(plan.archs), f"-I{plan.root / 'csrc'}", host])
        rules += [
            "rule nvcc",
            f"  command = {_quote(plan.nvcc.executable)} {flags} -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = nvcc $out",
        ]
    return rules


def _quote(word: object) -> str:
    """Quote `word` for the shell that ninja runs a command in."""
    return shlex.quote(str(word)).replace("$", "$$")


def _escape(path: Path) -> str:
    """Escape `path` as ninja wants it in a build line."""
    text = str(path)
    for special in ("$", " ", ":"):
        text = text.replace(special, f"${special}")
    return text
