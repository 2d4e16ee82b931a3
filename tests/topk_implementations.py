"""Everything that computes TopK ops, behind one interface, and the oracle it is held to.

The same call goes to the PyTorch reference, to the compiled kernels of every SIMD level and of a
GPU through the public functions, and to CPU and device code under sanitizers (kernel_program.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from kernel_program import KernelProgram
from torch import Tensor

from sparse_aasist._extension import SIMD_LEVELS, limit_simd_level
from sparse_aasist.ops import backend, topk_activation, topk_linear
from sparse_aasist.ops.topk_activation import RULES

# Numbers of csrc/float_format.h: FloatFormat.
FORMATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
ON_DEVICE = -1
SCHEDULES = ("ascending", "descending", "shuffled")
UNWRITTEN = 0x5A


class Selection(NamedTuple):
    """Results of topk_activation; dx belongs to the gradients given, None without."""

    activation: Tensor
    values: Tensor
    indices: Tensor
    dx: Tensor | None


class Linear(NamedTuple):
    """Results of topk_linear."""

    output: Tensor
    activation: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor


class Functions:
    """The public functions on a backend, device and SIMD level."""

    def __init__(self, backend_name: str, device: str = "cpu", simd: str | None = None) -> None:
        self.backend, self.device, self.simd = backend_name, device, simd

    def select(
        self,
        x: Tensor,
        k: int,
        by: str,
        grad: Tensor | None = None,
        grad_values: Tensor | None = None,
    ) -> Selection:
        x = _on_device(x, self.device).requires_grad_()
        with self._settings():
            y, values, indices = topk_activation(x, k, by=by, return_indices=True)
            dx = self._gradients([y, values], [x], [grad, grad_values])[0]
            # Without gradients another op runs.
            dense = topk_activation(x.detach(), k, by=by)
        assert torch.equal(bits(dense), bits(y))
        return Selection(*(t if t is None else t.detach().cpu() for t in (y, values, indices, dx)))

    def linear(
        self,
        x: Tensor,
        k: int,
        by: str,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        grad_output: Tensor,
        grad_activation: Tensor | None,
    ) -> Linear:
        inputs = [_on_device(t, self.device).requires_grad_() for t in (x, weight, bias)]
        scale = None if scale is None else _on_device(scale, self.device)
        with self._settings():
            out, y = topk_linear(
                inputs[0], k, *inputs[1:], by=by, scale=scale, return_activation=True
            )
            grads = self._gradients([out, y], inputs, [grad_output, grad_activation])
        return Linear(*(t.detach().cpu() for t in (out, y, *grads)))

    def _gradients(
        self, heads: list[Tensor], inputs: list[Tensor], grads: list[Tensor | None]
    ) -> list[Tensor | None]:
        pairs = zip(heads, grads, strict=True)
        used = [(head, _on_device(grad, self.device)) for head, grad in pairs if grad is not None]
        if not used:
            return [None] * len(inputs)
        heads, grads = zip(*used, strict=True)
        return list(torch.autograd.grad(heads, inputs, grads))

    @contextmanager
    def _settings(self) -> Iterator[None]:
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

    def select(
        self,
        x: Tensor,
        k: int,
        by: str,
        grad: Tensor | None = None,
        grad_values: Tensor | None = None,
    ) -> Selection:
        results = self.program.call("topk_activation", *self._selection(x, k, by))
        _, y, values, coded = results
        indices = coded ^ (coded >> 31)
        if grad is None and grad_values is None:
            return Selection(y, values, indices, None)
        dim = x.shape[-1]
        grad_content, row_stride, dim_stride = _storage(grad, x)
        scalars = (*self.where, FORMATS[x.dtype], _rows(x), dim, k, row_stride, dim_stride)
        given = torch.empty(0, dtype=x.dtype) if grad_values is None else grad_values
        arrays = (grad_content, given, coded, _unwritten(x.shape, x.dtype))
        dx = self.program.call("topk_activation_backward", scalars, arrays)[-1]
        return Selection(y, values, indices, dx)

    def linear(
        self,
        x: Tensor,
        k: int,
        by: str,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        grad_output: Tensor,
        grad_activation: Tensor | None,
        columns: int = 64,
    ) -> Linear:
        classes, dim = weight.shape
        absent = torch.empty(0, dtype=x.dtype)
        scale = absent if scale is None else scale
        scalars, arrays = self._selection(x, k, by)
        out = _unwritten((*x.shape[:-1], classes), x.dtype)
        results = self.program.call(
            "topk_linear", (*scalars, classes), (*arrays, weight, bias, scale, out)
        )
        _, y, values, coded, *_, out = results
        content, row_stride, dim_stride = _storage(grad_activation, x)
        shape = (*self.where, FORMATS[x.dtype], _rows(x), dim, k, row_stride, dim_stride, classes)
        written = [_unwritten(t.shape, x.dtype) for t in (y, weight, bias)]
        inputs = (grad_output, content, values, coded, weight, scale)
        results = self.program.call("topk_linear_backward", (*shape, columns), (*inputs, *written))
        return Linear(out, y, *results[-3:])

    def _selection(self, x: Tensor, k: int, by: str) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
        """Return scalars and arrays of a forward call; rows of x are read in place."""
        assert x.shape[-1] == 1 or x.stride(-1) == 1
        content, row_stride, _ = _storage(x, x)
        compact = (*x.shape[:-1], k)
        scalars = (FORMATS[x.dtype], RULES[by], _rows(x), x.shape[-1], k, row_stride)
        arrays = (
            content,
            _unwritten(x.shape, x.dtype),
            _unwritten(compact, x.dtype),
            _unwritten(compact, torch.int32),
        )
        return (*self.where, *scalars), arrays


def _on_device(tensor: Tensor, device: str) -> Tensor:
    """Move a tensor with its layout: `to` would make a slice or an expanded tensor contiguous."""
    tensor = tensor.detach()
    size, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
    whole = tensor.as_strided(
        (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0
    )
    return whole.to(device).as_strided(size, stride, offset)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _storage(tensor: Tensor | None, like: Tensor) -> tuple[Tensor, int, int]:
    """Return the memory that `tensor` spans, and its row and last strides.

    What lies behind its last element is out of bounds for a kernel.
    """
    if tensor is None or tensor.numel() == 0:
        return torch.empty(0, dtype=like.dtype), like.shape[-1], 1
    matrix = tensor.detach()
    if matrix.dim() != 2:
        matrix = matrix.reshape(-1, matrix.shape[-1])
    (rows, dim), (row_stride, dim_stride) = matrix.shape, matrix.stride()
    span = (rows - 1) * row_stride + (dim - 1) * dim_stride + 1
    return matrix.as_strided((span,), (1,)), row_stride, dim_stride


def _unwritten(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an output whose contents are no result: what a kernel leaves out shows."""
    return torch.empty(shape, dtype=dtype).view(torch.uint8).fill_(UNWRITTEN).view(dtype)


def bits(x: Tensor) -> Tensor:
    """Return the bit patterns of x as integers, one and the same for every NaN.

    PyTorch's own gather and scatter may change the sign and the payload of a NaN.
    """
    x = x.detach().cpu().contiguous()
    return torch.where(x.isnan(), -1, x.view(BITS[x.element_size()]))


def kept_by_sorting(x: Tensor, k: int, by: str) -> np.ndarray:
    """Return the kept entries of each row, ascending (rows, k), by Python's own stable sort."""
    # Every value of the four formats is exact in float64.
    rows = x.detach().cpu().double().numpy().reshape(-1, x.shape[-1])
    score = {"value": rows, "abs": np.abs(rows), "relu": np.maximum(rows, 0.0)}[by]
    # NaN is unequal to itself: (False, ...) sorts it first, and no NaN is ever compared.
    orders = [
        sorted(
            range(len(row)),
            key=lambda j, row=row: (False, 0.0) if row[j] != row[j] else (True, -row[j]),
        )
        for row in score.tolist()
    ]
    return np.array([sorted(order[:k]) for order in orders], dtype=np.int64).reshape(-1, k)


def expected_selection(
    x: Tensor, k: int, by: str, grad: Tensor | None = None, grad_values: Tensor | None = None
) -> Selection:
    """Return what every implementation must give, bit for bit."""
    x = x.detach().cpu()
    indices = torch.from_numpy(kept_by_sorting(x, k, by)).reshape(*x.shape[:-1], k)
    values = x.gather(-1, indices)
    alive = torch.ones_like(values, dtype=torch.bool)
    if by == "relu":
        alive = ~(values.double() <= 0)
        values = torch.where(alive, values, 0.0)
    y = torch.zeros_like(x, memory_format=torch.contiguous_format).scatter(-1, indices, values)
    dx = None
    if grad is not None or grad_values is not None:
        kept = torch.zeros_like(values) if grad is None else grad.gather(-1, indices)
        if grad_values is not None:
            total = kept.double() + grad_values.double()
            kept = grad_values if grad is None else total.to(x.dtype)
        kept = torch.where(alive, kept, 0.0)
        dx = torch.zeros_like(y).scatter(-1, indices, kept)
    return Selection(y, values, indices.int(), dx)


def assert_same_selection(got: Selection, expected: Selection) -> None:
    """Compare bit for bit: signs of zero too, and NaN equals NaN."""
    for name, tensor, wanted in zip(Selection._fields, got, expected, strict=True):
        if wanted is None:
            assert tensor is None
            continue
        assert tensor is not None and tensor.shape == wanted.shape, name
        assert tensor.dtype == wanted.dtype and tensor.is_contiguous(), name
        assert torch.equal(bits(tensor), bits(wanted)), name
