"""Everything that computes TopK ops, behind one interface, and the oracle it is held to.

The same call goes to the PyTorch reference, to the compiled kernels of every SIMD level and of a
GPU through the public functions, and to CPU and device code under sanitizers (kernel_program.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from implementations import FORMATS, Functions, Sanitized, bits, on_device, unwritten
from torch import Tensor

from sparse_aasist.ops import topk_activation, topk_linear
from sparse_aasist.ops.topk_activation import RULES


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


class TopkFunctions(Functions):
    """The public functions."""

    def select(
        self,
        x: Tensor,
        k: int,
        by: str,
        grad: Tensor | None = None,
        grad_values: Tensor | None = None,
    ) -> Selection:
        x = on_device(x, self.device).requires_grad_()
        with self.settings():
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
        inputs = [on_device(t, self.device).requires_grad_() for t in (x, weight, bias)]
        scale = None if scale is None else on_device(scale, self.device)
        with self.settings():
            out, y = topk_linear(
                inputs[0], k, *inputs[1:], by=by, scale=scale, return_activation=True
            )
            grads = self._gradients([out, y], inputs, [grad_output, grad_activation])
        return Linear(*(t.detach().cpu() for t in (out, y, *grads)))

    def _gradients(
        self, heads: list[Tensor], inputs: list[Tensor], grads: list[Tensor | None]
    ) -> list[Tensor | None]:
        pairs = zip(heads, grads, strict=True)
        used = [(head, on_device(grad, self.device)) for head, grad in pairs if grad is not None]
        if not used:
            return [None] * len(inputs)
        heads, grads = zip(*used, strict=True)
        return list(torch.autograd.grad(heads, inputs, grads))


class TopkSanitized(Sanitized):
    """The kernels themselves."""

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
        arrays = (grad_content, given, coded, unwritten(x.shape, x.dtype))
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
        out = unwritten((*x.shape[:-1], classes), x.dtype)
        results = self.program.call(
            "topk_linear", (*scalars, classes), (*arrays, weight, bias, scale, out)
        )
        _, y, values, coded, *_, out = results
        content, row_stride, dim_stride = _storage(grad_activation, x)
        shape = (*self.where, FORMATS[x.dtype], _rows(x), dim, k, row_stride, dim_stride, classes)
        written = [unwritten(t.shape, x.dtype) for t in (y, weight, bias)]
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
            unwritten(x.shape, x.dtype),
            unwritten(compact, x.dtype),
            unwritten(compact, torch.int32),
        )
        return (*self.where, *scalars), arrays


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
