"""TopK activation: keep the k highest values of the last dimension, zero the rest.

The sparse last hidden layer of TopK-AASIST; exact on every backend, down to the choice at ties.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_aasist.ops._backend import device_type, needs_reference, use_kernel

RULES = {"value": 0, "abs": 1, "relu": 2}
"""What is ranked, and the number of it in csrc/order_key.h."""
MAX_DIM = 131_072
"""Longest row."""

_NAME = "topk_activation"
# Format -> (integer of that size, bit pattern of infinity).
_FORMATS = {
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
}


class TopkOutput(NamedTuple):
    """What `topk_activation` returns with `return_indices=True`.

    Attributes:
        activation: (..., D), dtype of x: the kept entries, zeros elsewhere.
        values: (..., k), dtype of x: the kept entries, in order of their indices.
        indices: int32 (..., k), ascending.
    """

    activation: Tensor
    values: Tensor
    indices: Tensor


def topk_activation(
    x: Tensor, k: int, *, by: str = "value", return_indices: bool = False
) -> Tensor | TopkOutput:
    """Keep the k highest entries along the last dimension and set the others to zero.

    y_j = f(x_j) if #{i : s_i > s_j, or s_i = s_j and i < j} < k, else 0: at ties the lowest index
    wins, NaN ranks largest (as in torch.topk), -0 and +0 tie. The gradient is that of f where an
    entry was kept and zero elsewhere; f is the identity or, with by="relu", max(x, 0).

    Selection is exact in every dtype. Autocast does not change it: the op runs in the dtype of x.
    `torch.compile` and `torch.export` trace through it, with k and D fixed; under `torch.func`
    transforms (vmap, grad, jvp) and forward-mode AD it runs as plain PyTorch. Gradients are
    deterministic, of any order; backward needs the indices unchanged.

    Args:
        x: (..., D), float32, float64, float16 or bfloat16, any strides; 1 <= D <= 131,072. A row
            is read in place when its entries are neighbours and the leading dimensions have one
            stride; other layouts are copied first.
        k: how many entries of each row to keep, 1..D; k = D keeps all.
        by: what is ranked: "value" x, "abs" |x|, "relu" max(x, 0), which is also what is kept.
        return_indices: also return the kept entries in compact form.

    Returns:
        (..., D), dtype of x, contiguous, a new tensor; or a TopkOutput.

    Raises:
        TypeError: x is not a tensor of one of these dtypes, or k is not an int.
        ValueError: x has no last dimension or one outside 1..131,072, k is not in 1..D, or `by`
            is unknown.

    Source: the last hidden layer of TopK-AASIST (arXiv 2510.05696); "relu" is the rule of TopK
    sparse autoencoders (arXiv 2406.04093).

    Example:
        >>> topk_activation(torch.tensor([3.0, 1.0, 2.0, 2.0]), k=2)
        tensor([3., 0., 2., 0.])
    """
    rule = check_topk(x, k, by)
    if not use_kernel(_NAME, device_type(x)) or needs_reference():
        return topk_activation_reference(x, k, by=by, return_indices=return_indices)
    if torch.is_grad_enabled() and x.requires_grad:
        if return_indices:
            return TopkOutput(*_TopkActivationCompact.apply(x, k, rule))
        return _TopkActivation.apply(x, k, rule)
    if return_indices:
        y, values, coded = torch.ops.sparse_aasist.topk_activation_compact.default(x, k, rule)
        return TopkOutput(y, values, _decode(coded, rule))
    return torch.ops.sparse_aasist.topk_activation.default(x, k, rule)


def topk_activation_reference(
    x: Tensor, k: int, *, by: str = "value", return_indices: bool = False
) -> Tensor | TopkOutput:
    """Compute `topk_activation` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `topk_activation`.
    """
    check_topk(x, k, by)
    keys = order_keys(x, by)
    # Stable: equal keys stay in order of their indices.
    order = keys.sort(dim=-1, descending=True, stable=True).indices
    indices = order[..., :k].sort(dim=-1).values
    kept = torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter(-1, indices, True)
    source = torch.where(keys > 0, x, 0.0) if by == "relu" else x
    y = torch.where(kept, source, 0.0).contiguous()
    if not return_indices:
        return y
    return TopkOutput(y, source.gather(-1, indices), indices.int())


def check_topk(x: Tensor, k: int, by: str) -> int:
    """Check the arguments of a selection; return the number of its rule.

    Raises: as `topk_activation`.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if x.dtype not in _FORMATS:
        raise TypeError(f"x must be float32, float64, float16 or bfloat16, got {x.dtype}")
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k must be an int, got {k!r}")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x needs a non-empty last dimension, got shape {tuple(x.shape)}")
    dim = x.shape[-1]
    if dim > MAX_DIM:
        raise ValueError(f"the last dimension of x must be at most {MAX_DIM:,}, got {dim:,}")
    if not 1 <= k <= dim:
        raise ValueError(f"k must be in 1..{dim} (the last dimension of x), got {k}")
    if by not in RULES:
        raise ValueError(f"by must be one of {', '.join(RULES)}, got {by!r}")
    return RULES[by]


class _TopkActivation(torch.autograd.Function):
    """The dense output with its gradient.

    Without setup_context(), which costs as much as the op at small sizes; `torch.func`, which
    would need it, runs the reference.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, rule: int) -> Tensor:
        y, _, coded = torch.ops.sparse_aasist.topk_activation_compact.default(x, k, rule)
        # Indices, not y != 0: a kept entry may be zero.
        ctx.save_for_backward(coded)
        ctx.dim = x.shape[-1]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _spread(grad, None, ctx.saved_tensors[0], ctx.dim), None, None


class _TopkActivationCompact(torch.autograd.Function):
    """The dense output and the compact pair, with their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, rule: int) -> tuple[Tensor, Tensor, Tensor]:
        y, values, coded = torch.ops.sparse_aasist.topk_activation_compact.default(x, k, rule)
        indices = _decode(coded, rule)
        ctx.save_for_backward(coded)
        ctx.dim = x.shape[-1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(indices)
        return y, values, indices

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_values: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        if grad is None and grad_values is None:
            return None, None, None
        return _spread(grad, grad_values, ctx.saved_tensors[0], ctx.dim), None, None


def _spread(grad: Tensor | None, grad_values: Tensor | None, coded: Tensor, dim: int) -> Tensor:
    """Return the gradient of x (..., dim): that of what was kept, zeros elsewhere."""
    if not torch.is_grad_enabled():
        return torch.ops.sparse_aasist.topk_activation_backward.default(
            grad, grad_values, coded, dim
        )
    # For gradients of gradients, which autograd derives from PyTorch's own ops.
    indices = (coded ^ (coded >> 31)).long()
    kept = 0.0 if grad is None else grad.gather(-1, indices)
    kept = torch.where(coded < 0, 0.0, kept if grad_values is None else kept + grad_values)
    return kept.new_zeros((*coded.shape[:-1], dim)).scatter(-1, indices, kept)


def _decode(coded: Tensor, rule: int) -> Tensor:
    """Return plain indices: ~index stands where relu made a kept entry zero."""
    return coded ^ (coded >> 31) if rule == RULES["relu"] else coded


def order_keys(x: Tensor, by: str) -> Tensor:
    """Return integers in the order of what is ranked; see csrc/order_key.h.

    Comparing bit patterns keeps subnormals apart where the process flushes them to zero.
    """
    integer, infinity = _FORMATS[x.dtype]
    bits = _Bits.apply(x.detach(), integer)
    largest = torch.iinfo(integer).max
    magnitude = bits & largest
    if by == "abs":
        keys = magnitude
    else:
        keys = torch.where(bits < 0, 0 if by == "relu" else -magnitude, magnitude)
    return torch.where(magnitude > infinity, largest, keys)


class _Bits(torch.autograd.Function):
    """`x.view(integer)` of the same width: in torch 2.11 vmap has no rule for that view."""

    @staticmethod
    def forward(x: Tensor, integer: torch.dtype) -> Tensor:
        return x.view(integer)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, integer: torch.dtype) -> Any:
        return _Bits.apply(x, integer), in_dims[0]
