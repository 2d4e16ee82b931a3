"""Compile every CUDA source and print registers, spills and shared memory of each kernel.

Needs nvcc alone: no GPU, no torch. Exits with 1 when a source fails to compile without warnings
or a kernel spills registers, and with 2 when nvcc is missing or not understood.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolchain import NVCC_FLAGS, BuildError, Nvcc, find_nvcc, max_jobs

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("sm_80", "sm_90")
_KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class KernelUse:
    """What one kernel takes on one architecture."""

    kernel: str
    arch: str
    registers: int
    spill_bytes: int
    shared_bytes: int


def main() -> int:
    """Check every .cu file below csrc/; return the exit status."""
    try:
        nvcc = find_nvcc()
        if nvcc is None:
            print(
                "cuda-check: nvcc is missing: looked in $CUDA_HOME/bin, /usr/local/cuda/bin and "
                "PATH; install the CUDA toolkit"
            )
            return 2
        return _check(nvcc)
    except BuildError as error:
        print(f"cuda-check: {error}")
        return 2


def _check(nvcc: Nvcc) -> int:
    files = sorted((ROOT / "csrc").rglob("*.cu"))
    rows: list[KernelUse] = []
    failures = 0
    jobs = [(source, arch) for source in files for arch in ARCHITECTURES]
    with ThreadPoolExecutor(max_jobs()) as pool:
        results = list(pool.map(lambda job: _compile(nvcc, *job), jobs))
    for (source, arch), (found, log) in zip(jobs, results, strict=True):
        rows += found
        if log is not None:
            failures += 1
            print(f"cuda-check: {source.relative_to(ROOT)} fails for {arch}:\n{log}")
    _print_table(rows)
    spilling = sum(row.spill_bytes > 0 for row in rows)
    print(
        f"cuda-check: nvcc {nvcc.version}, {len(files)} files, {len(rows)} kernels, "
        f"{failures} failures, {spilling} with spills"
    )
    return 1 if failures or spilling or not rows else 0


def _compile(nvcc: Nvcc, source: Path, arch: str) -> tuple[list[KernelUse], str | None]:
    """Return (kernels, None), or ([], the compiler's output) when `source` does not compile."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(nvcc.executable), *NVCC_FLAGS, "-Xptxas", "-v", f"-arch={arch}", "-cubin"]
        command += [f"-I{ROOT / 'csrc'}", str(source), "-o", str(Path(folder) / "out.cubin")]
        run = subprocess.run(command, capture_output=True, text=True)
    log = run.stdout + run.stderr
    return ([], log) if run.returncode != 0 else (parse_ptxas(log), None)


def parse_ptxas(log: str) -> list[KernelUse]:
    """Return the kernels that the output of `ptxas -v` describes."""
    uses = []
    parts = _KERNEL.split(log)
    for name, arch, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        spills, used, shared = _SPILLS.search(text), _USED.search(text), _SHARED.search(text)
        if spills is None or used is None:
            raise BuildError(f"ptxas says nothing about the registers of {name}")
        uses.append(
            KernelUse(
                kernel=_short_name(name),
                arch=arch,
                registers=int(used.group(1)),
                spill_bytes=int(spills.group(1)) + int(spills.group(2)),
                shared_bytes=int(shared.group(1)) if shared else 0,
            )
        )
    return uses


def _short_name(mangled: str) -> str:
    """Return `kernel<types>` without namespaces and arguments; the mangled name without c++filt."""
    tool = shutil.which("c++filt")
    if tool is None:
        return mangled
    run = subprocess.run([tool, mangled], capture_output=True, text=True)
    text = run.stdout.strip().replace("(anonymous namespace)::", "").replace("sparse_aasist::", "")
    return re.sub(r"^void ", "", text).split("(")[0]


def _print_table(rows: list[KernelUse]) -> None:
    header = ("kernel", "arch", "registers", "spill bytes", "shared bytes")
    cells = [
        (row.kernel, row.arch, str(row.registers), str(row.spill_bytes), str(row.shared_bytes))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (header, *cells)) for column in range(len(header))]
    for line in (header, *cells):
        left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right))


if __name__ == "__main__":
    sys.exit(main())
