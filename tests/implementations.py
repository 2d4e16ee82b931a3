"""What the tests of all ops share: where an implementation runs, and how results are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from kernel_program import KernelProgram
from torch import Tensor

from sparse_aasist._extension import SIMD_LEVELS, limit_simd_level
from sparse_aasist.ops import backend

# Numbers of csrc/float_format.h: FloatFormat.
FORMATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
ON_DEVICE = -1
SCHEDULES = ("ascending", "descending", "shuffled")
UNWRITTEN = 0x5A


class Functions:
    """The public functions on a backend, device and SIMD level."""

    def __init__(self, backend_name: str, device: str = "cpu", simd: str | None = None) -> None:
        self.backend, self.device, self.simd = backend_name, device, simd

    @contextmanager
    def settings(self) -> Iterator[None]:
        with backend(self.backend):
            if self.simd is not None:
                limit_simd_level(self.simd)
            try:
                yield
            finally:
                if self.simd is not None:
                    limit_simd_level(SIMD_LEVELS[-1])


class Sanitized:
    """CPU or device code under sanitizers; `where` is ON_DEVICE or the number of a SIMD level."""

    def __init__(self, program: KernelProgram, where: int, schedule: str = "ascending") -> None:
        self.program = program
        self.where = (where, SCHEDULES.index(schedule))


def on_device(tensor: Tensor, device: str) -> Tensor:
    """Move a tensor with its layout: `to` would make a slice or an expanded tensor contiguous."""
    tensor = tensor.detach()
    size, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
    whole = tensor.as_strided(
        (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0
    )
    return whole.to(device).as_strided(size, stride, offset)


def unwritten(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an output whose contents are no result: what a kernel leaves out shows."""
    return torch.empty(shape, dtype=dtype).view(torch.uint8).fill_(UNWRITTEN).view(dtype)


def bits(x: Tensor) -> Tensor:
    """Return the bit patterns of x as integers, one and the same for every NaN.

    PyTorch's own gather and scatter may change the sign and the payload of a NaN.
    """
    x = x.detach().cpu().contiguous()
    return torch.where(x.isnan(), -1, x.view(BITS[x.element_size()]))
