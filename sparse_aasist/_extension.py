"""Load the compiled ops and tell what the build contains.

The package is complete without them: every op has a PyTorch reference beside it.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

NAMESPACE = "sparse_aasist"
_LIBRARY = Path(__file__).with_name("libsparse_aasist_ops.so")
REBUILD_HINT = (
    "for the compiled kernels install a C++ compiler and reinstall the package (docs/building.md)"
)


def load() -> bool:
    """Load the ops library once; return whether its ops are registered."""
    return load_failure() is None


@cache
def load_failure() -> str | None:
    """Load the ops library once; return None, or why it is not there in a few words."""
    import torch

    if not _LIBRARY.is_file():
        return "nothing was compiled"
    try:
        torch.ops.load_library(str(_LIBRARY))
    except OSError as error:
        return f"{_LIBRARY.name} does not load: {error}"
    return None


def has_kernel(op: str, device_type: str) -> bool:
    """Return whether the compiled op `op` has a kernel for tensors on `device_type`."""
    import torch

    if device_type not in ("cpu", "cuda") or not load():
        return False
    # The only way to ask; in torch under this name since 1.10.
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", device_type.upper())


SIMD_LEVELS = ("portable", "avx2", "avx512", "amx")
"""Instruction sets of the CPU kernels, lowest first; numbered so in csrc/simd_level.h. AMX
multiplies in bfloat16: all else is AVX-512 there."""


def simd_level() -> str:
    """Return which of SIMD_LEVELS the CPU kernels use: the highest that CPU and build have."""
    return _simd_level(-1)


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether the CPU kernels have products in bfloat16, which beat those in float32."""
    return load() and simd_level() == "amx"


def limit_simd_level(most: str) -> str:
    """Make the CPU kernels use `most` or a lower level, in the whole process; return which.

    Raises:
        ValueError: there is no such level.
    """
    if most not in SIMD_LEVELS:
        raise ValueError(f"most must be one of {', '.join(SIMD_LEVELS)}, got {most!r}")
    return _simd_level(SIMD_LEVELS.index(most))


def _simd_level(most: int) -> str:
    import torch

    if not load():
        raise RuntimeError(f"there are no CPU kernels: {load_failure()}; {REBUILD_HINT}")
    return SIMD_LEVELS[torch.ops.sparse_aasist.simd_level(most)]


def build_info() -> dict[str, Any]:
    """Return what this build contains.

    Returns:
        A dictionary with `compiled` (bool) and `reason` (why nothing is compiled, or None). Where
        the build left its record, also `compiler`, `simd` (the SIMD_LEVELS that it holds), `cuda`
        and `cuda_architectures` (None without CUDA), `stable_abi` (the oldest torch that the ops
        load in) and `torch` (the version built against).
    """
    failure = load_failure()
    info: dict[str, Any] = {"compiled": failure is None, "reason": failure}
    try:
        module = importlib.import_module("sparse_aasist._build_info")
    except ImportError:
        return info
    return info | module.build_info()
