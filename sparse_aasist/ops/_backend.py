"""Choose between a compiled kernel and the PyTorch reference, once per op and device type."""

from __future__ import annotations

import warnings
from functools import cache

import torch

from sparse_aasist import _extension
from sparse_aasist.ops._fakes import FAKES


@torch.compiler.assume_constant_result
def use_kernel(op: str, device_type: str) -> bool:
    """Return whether `op` runs its compiled kernel on `device_type`; warn once when it does not."""
    return _choose(op, device_type)


@cache
def _choose(op: str, device_type: str) -> bool:
    if _extension.has_kernel(op, device_type):
        _register_fakes()
        return True
    # Other devices (meta, mps, ...) have no kernel by design: nothing to warn of.
    if device_type in ("cpu", "cuda"):
        _warn_once(device_type)
    return False


@cache
def _register_fakes() -> None:
    for op, fake in FAKES.items():
        torch.library.register_fake(f"{_extension.NAMESPACE}::{op}", fake)


@cache
def _warn_once(device_type: str) -> None:
    warnings.warn(
        f"sparse_aasist ops run as plain PyTorch on {device_type}: "
        f"{_why_reference(device_type)}; {_extension.REBUILD_HINT}",
        RuntimeWarning,
        stacklevel=5,
    )


def backend_report() -> dict[str, str]:
    """Return, for each op, what runs it on a CPU and on a CUDA device, and why."""
    return {op: "; ".join(_describe(op, device) for device in ("cpu", "cuda")) for op in FAKES}


def _describe(op: str, device_type: str) -> str:
    if _extension.has_kernel(op, device_type):
        return f"{device_type}: compiled kernel"
    return f"{device_type}: PyTorch reference ({_why_reference(device_type)})"


def _why_reference(device_type: str) -> str:
    return _extension.load_failure() or f"this build has no {device_type} kernels"
