"""Choose between the compiled kernels and the PyTorch references, per op and device type."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from threading import Lock

import torch
from torch import Tensor

from sparse_aasist import _extension
from sparse_aasist.ops._fakes import FAKES

OPS = (
    *("front_end", "residual_block", "residual_block_training"),
    *("graph_attention", "graph_pool", "graph_stack", "graph_stack_training"),
    *("topk_activation", "topk_linear"),
)
BACKENDS = ("compiled", "reference")
BACKEND_VARIABLE = "SPARSE_AASIST_BACKEND"

# (block, name) of the `with` blocks that are open, the newest last. Blocks of several threads may
# overlap: the tuple is replaced, under the lock, and never changed.
_asked: tuple[tuple[object, str], ...] = ()
_lock = Lock()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make all ops of the process run on one backend inside a `with` block.

    Without it, and without the environment variable SPARSE_AASIST_BACKEND of the same meaning,
    an op runs compiled where it can and as its reference elsewhere. A function that
    `torch.compile` has traced keeps the backend that it was traced with.

    Args:
        name: "compiled", which makes a missing kernel an error, or "reference", plain PyTorch.

    Raises:
        ValueError: the name is another one.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    global _asked
    block = object()
    with _lock:
        _asked = (*_asked, (block, name))
    try:
        yield
    finally:
        with _lock:
            _asked = tuple(entry for entry in _asked if entry[0] is not block)


@torch.compiler.assume_constant_result
def use_kernel(op: str, device_type: str) -> bool:
    """Return whether `op` runs its compiled kernel on `device_type`.

    Warns once per device type where a kernel might be expected and is missing.

    Raises:
        RuntimeError: compiled kernels are demanded and there is none.
        ValueError: SPARSE_AASIST_BACKEND names no backend.
    """
    return _choose(op, device_type, _asked_for())


cpu_multiplies_bfloat16 = torch.compiler.assume_constant_result(_extension.cpu_multiplies_bfloat16)


def device_type(x: Tensor) -> str:
    """Return `x.device.type`, on a CPU without the objects on the way: they cost 2 us a call."""
    return "cpu" if x.is_cpu else x.device.type


def autocast_is_on(x: Tensor) -> bool:
    """Tell whether autocast is on for the device of x; some, such as meta, have none."""
    kind = device_type(x)
    return _has_autocast(kind) and torch.is_autocast_enabled(kind)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype of autocast on the device of x, None where it is off."""
    return torch.get_autocast_dtype(device_type(x)) if autocast_is_on(x) else None


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of x."""
    kind = device_type(x)
    if _has_autocast(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


# torch.compile of 2.11 cannot trace the question.
@torch.compiler.assume_constant_result
def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def needs_reference() -> bool:
    """Tell whether a `torch.func` transform or forward-mode AD is on: kernels have no rules."""
    # Both in torch under these names since 2.0; autograd.Function asks the first, too.
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return forward_mode or torch._C._are_functorch_transforms_active()


def _asked_for() -> str | None:
    asked = _asked
    return asked[-1][1] if asked else _backend_of_environment()


@cache
def _backend_of_environment() -> str | None:
    name = os.environ.get(BACKEND_VARIABLE) or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


@cache
def _choose(op: str, device_type: str, asked: str | None) -> bool:
    if asked == "reference":
        return False
    if _extension.has_kernel(op, device_type):
        with _lock:
            _register_fakes()
        return True
    if asked == "compiled":
        raise RuntimeError(
            f"{op} has no compiled kernel on {device_type}: {_why_reference(device_type)}; "
            f"{_extension.REBUILD_HINT}"
        )
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
    return {op: "; ".join(_describe(op, device) for device in ("cpu", "cuda")) for op in OPS}


def _describe(op: str, device_type: str) -> str:
    if _asked_for() == "reference":
        return f"{device_type}: PyTorch reference (asked for)"
    if _extension.has_kernel(op, device_type):
        return f"{device_type}: compiled kernel" + (_level(op) if device_type == "cpu" else "")
    return f"{device_type}: PyTorch reference ({_why_reference(device_type)})"


def _level(op: str) -> str:
    level = _extension.simd_level()
    if level != "amx":
        return f", {level}"
    return ", avx512" + (", amx in bfloat16" if op.startswith("residual_block") else "")


def _why_reference(device_type: str) -> str:
    return _extension.load_failure() or f"this build has no {device_type} kernel"
