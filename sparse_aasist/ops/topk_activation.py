"""TopK activation: keep the k largest values of the last dimension, zero the rest.

The sparse last hidden layer of TopK-AASIST; exact on every backend, down to the choice at ties.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_aasist.ops._backend import use_kernel

_NAME = "topk_activation"
_BY = ("value", "abs")
_FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def topk_activation(x: Tensor, k: int, *, by: str = "value") -> Tensor:
    """Keep the k highest entries along the last dimension and set the others to zero.

    y_j = x_j if #{i : s_i > s_j, or s_i = s_j and i < j} < k, else 0, with s = x or s = |x|:
    at ties the lowest index wins, NaN ranks largest, -0 and +0 tie. The gradient passes where an
    entry was kept and is zero elsewhere.

    Args:
        x: (..., D), float32, float64, float16 or bfloat16, any strides; D >= 1.
        k: how many entries of each row to keep, 1..D; k = D keeps all.
        by: "value" ranks x, "abs" ranks |x|.

    Returns:
        (..., D), dtype of x, contiguous, a new tensor.

    Raises:
        TypeError: x is not a tensor of one of these dtypes, or k is not an int.
        ValueError: x has no last dimension or an empty one, k is not in 1..D, or `by` is unknown.

    Source: the last hidden layer of TopK-AASIST (arXiv 2510.05696).

    Example:
        >>> topk_activation(torch.tensor([3.0, 1.0, 2.0, 2.0]), k=2)
        tensor([3., 0., 2., 0.])
    """
    _check(x, k, by)
    if not use_kernel(_NAME, x.device.type):
        return topk_activation_reference(x, k, by=by)
    if torch.is_grad_enabled() and x.requires_grad:
        return _TopkActivation.apply(x, k, by == "abs")
    return torch.ops.sparse_aasist.topk_activation(x, k, by == "abs")[0]


def topk_mask(x: Tensor, k: int, *, by: str = "value") -> Tensor:
    """Return which entries `topk_activation` keeps, as a bool tensor of the shape of x.

    For callers that rank one tensor and keep the entries of another. Arguments, rule and errors
    are those of `topk_activation`.
    """
    _check(x, k, by)
    if use_kernel(_NAME, x.device.type):
        return torch.ops.sparse_aasist.topk_activation(x.detach(), k, by == "abs")[1]
    return _mask_reference(x, k, by)


def topk_activation_reference(x: Tensor, k: int, *, by: str = "value") -> Tensor:
    """Compute `topk_activation` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `topk_activation`.
    """
    _check(x, k, by)
    return torch.where(_mask_reference(x, k, by), x, 0.0).contiguous()


class _TopkActivation(torch.autograd.Function):
    """The raw op with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, by_abs: bool) -> Tensor:
        y, mask = torch.ops.sparse_aasist.topk_activation(x, k, by_abs)
        # The mask, not y != 0: a kept entry may be zero.
        ctx.save_for_backward(mask)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask, grad, 0.0), None, None


def _mask_reference(x: Tensor, k: int, by: str) -> Tensor:
    rank = x.detach()
    if by == "abs":
        rank = rank.abs()
    # One zero and one NaN: sorting must not tell signs and payloads of these apart.
    rank = torch.where(rank == 0, 0.0, rank)
    rank = torch.where(rank.isnan(), torch.nan, rank)
    kept = rank.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter(-1, kept, True)


def _check(x: Tensor, k: int, by: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if x.dtype not in _FLOAT_DTYPES:
        raise TypeError(f"x must be float32, float64, float16 or bfloat16, got {x.dtype}")
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k must be an int, got {k!r}")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x needs a non-empty last dimension, got shape {tuple(x.shape)}")
    if not 1 <= k <= x.shape[-1]:
        raise ValueError(f"k must be in 1..{x.shape[-1]} (the last dimension of x), got {k}")
    if by not in _BY:
        raise ValueError(f"by must be 'value' or 'abs', got {by!r}")
