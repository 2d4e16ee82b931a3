"""The setuptools command that compiles csrc/ and ends with one line on what was built."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from ninja_file import Plan, compile_all
from toolchain import CUDA_VARIABLE, BuildError, cuda_archs, find_cxx, find_nvcc, want_cuda
from torch_lookup import TorchNotFoundError, TorchUnusableError, check_version, find_torch

ROOT = Path(__file__).resolve().parents[1]
OPS_LIBRARY = "sparse_aasist.libsparse_aasist_ops"
INFO_MODULE = "sparse_aasist._build_info"


def extensions() -> list[Extension]:
    """Return the two shared objects of the package; their sources are named in ninja_file."""
    return [Extension(OPS_LIBRARY, sources=[]), Extension(INFO_MODULE, sources=[])]


class BuildExtension(build_ext):
    """Compile with ninja, or leave the kernels out where there is no C++ compiler."""

    def get_ext_filename(self, fullname: str) -> str:
        # The ops library is no Python module: the same file serves every Python version.
        # setuptools asks for the full name as well as for its last part alone.
        *folders, name = fullname.split(".")
        if name == OPS_LIBRARY.rpartition(".")[2]:
            return str(Path(*folders, f"{name}.so"))
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        try:
            plan, reason = self._plan()
            if plan is None:
                # Nothing was made: nothing may be packed, no leftover of an earlier build either.
                self._remove_built(Path(self.build_lib))
                self.extensions = []
            else:
                ops, info = (Path(self.get_ext_fullpath(n)) for n in (OPS_LIBRARY, INFO_MODULE))
                compile_all(plan, ops.resolve(), info.resolve())
        except (BuildError, TorchNotFoundError, TorchUnusableError) as error:
            raise CompileError(f"sparse_aasist: {error}") from error
        print(_summary(plan, reason), flush=True)

    def copy_extensions_to_source(self) -> None:
        if not self.extensions:
            self._remove_built(ROOT)
        super().copy_extensions_to_source()

    def _remove_built(self, folder: Path) -> None:
        for name in (OPS_LIBRARY, INFO_MODULE):
            (folder / self.get_ext_filename(name)).unlink(missing_ok=True)

    def _plan(self) -> tuple[Plan | None, str]:
        """Return (plan, why it has no CUDA) or (None, why nothing is compiled)."""
        nvcc = find_nvcc()
        if not sys.platform.startswith("linux"):
            return None, f"kernels are built on Linux only, not on {sys.platform}"
        cxx, reason = find_cxx()
        if cxx is None:
            if want_cuda(nvcc, None):
                raise BuildError(f"{CUDA_VARIABLE}=1 but there is {reason}")
            return None, reason
        torch = find_torch()
        check_version(torch)
        cuda = want_cuda(nvcc, torch.cuda)
        if not cuda:
            reason = _why_no_cuda(nvcc is not None, torch.cuda)
        build_dir = Path(self.build_temp).resolve() / "sparse_aasist"
        return Plan(ROOT, build_dir, cxx, torch, nvcc if cuda else None, cuda_archs()), reason


def _why_no_cuda(has_nvcc: bool, torch_cuda: str | None) -> str:
    if torch_cuda is None:
        return "torch is a CPU build"
    return f"{CUDA_VARIABLE}=0" if has_nvcc else "nvcc is missing"


def _summary(plan: Plan | None, reason: str) -> str:
    if plan is None:
        return f"sparse_aasist: built without kernels ({reason}); ops run on the PyTorch reference"
    cuda = f"CUDA {plan.nvcc.version} for {plan.archs}" if plan.nvcc else f"no CUDA ({reason})"
    return f"sparse_aasist: built CPU kernels, {cuda}, against torch {plan.torch.version}"
