"""Runs kernels outside of torch: device code on the SIMT shim, CPU code at every SIMD level.

All of it is compiled with the address and undefined-behaviour sanitizers into one program, which
serves calls over its standard input and output (tests/simt/harness.h).
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolchain import find_cxx, level_flags, max_jobs, simd_flags, tile_flags

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    *("-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
    # nvcc's own pragma; vectors and aligned structs passed by value, within one program.
    *("-Wno-unknown-pragmas", "-Wno-psabi"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *(f"-I{ROOT / folder}" for folder in ("csrc", "tests/simt")),
)


class KernelFailure(AssertionError):
    """The program ended: a sanitizer or the shim found a fault."""


def build_program(main: Path, ops: Sequence[str], folder: Path) -> Path:
    """Compile `main`, the kernels of `ops` and the shim in `folder`; return the program.

    Skips the test where there is no compiler, and where the shim's context switch is not written
    for the processor.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the SIMT shim switches fibers on x86-64 only")
    cxx, reason = find_cxx()
    if cxx is None:
        pytest.skip(reason)
    sources: list[tuple[Path, tuple[str, ...]]] = [
        (main, ()),
        (ROOT / "tests/simt/simt_shim.cpp", ()),
        (ROOT / "csrc/simd_level.cpp", level_flags(cxx)),
    ]
    for op in ops:
        sources += [(path, ("-x", "c++")) for path in ROOT.glob(f"csrc/cuda/{op}*_cuda.cu")]
        for path in ROOT.glob(f"csrc/cpu/{op}*_cpu.cpp"):
            sources += [(path, flags) for flags in simd_flags().values()]
        for path in ROOT.glob(f"csrc/tiles/{op}*_cpu.cpp"):
            sources += [(path, flags) for flags in tile_flags(cxx).values()]
    objects = [folder / f"{number}.o" for number in range(len(sources))]
    commands = [
        [*cxx, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
        for (source, flags), target in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(max_jobs()) as pool:
        runs = list(pool.map(_run, commands))
    program = folder / "kernels"
    runs.append(_run([*cxx, *FLAGS, *map(str, objects), "-o", str(program)]))
    for run in runs:
        assert run.returncode == 0, run.stderr
    return program


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


class KernelProgram:
    """A running program; `call` runs one of its kernels."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._report = program.with_suffix(".report")
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, name: str, scalars: Sequence[int], arrays: Sequence[Tensor]) -> list[Tensor]:
        """Run the kernel `name`; return the arrays as it left them.

        An array is a tensor on the CPU; an empty one stands for an absent argument.

        Raises:
            KernelFailure: a sanitizer or the shim ended the program; with its report.
        """
        contents = [tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in arrays]
        sizes = [len(content) for content in contents]
        words = [name, len(scalars), *scalars, len(sizes), *sizes]
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            for content in contents:
                process.stdin.write(content.numpy().tobytes())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # its report is read below
        answer = process.stdout.readline()
        if answer != b"ok\n":
            raise self._failure(answer)
        results = []
        for tensor, size in zip(arrays, sizes, strict=True):
            if size == 0:
                results.append(tensor)
                continue
            content = bytearray(process.stdout.read(size))
            results.append(torch.frombuffer(content, dtype=tensor.dtype).reshape(tensor.shape))
        return results

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            with open(self._report, "wb") as report:
                self._process = subprocess.Popen(
                    [str(self._program)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=report,
                )
        return self._process

    def _failure(self, answer: bytes) -> KernelFailure:
        if answer.startswith(b"refused"):
            return KernelFailure(answer.decode().strip())
        self.close()
        return KernelFailure(self._report.read_text(errors="replace"))

    def close(self) -> None:
        """End the program; the next call starts it again."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
