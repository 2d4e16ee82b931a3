"""Output shapes of the compiled ops, from which `torch.compile` and export trace through them."""

from __future__ import annotations

import torch
from torch import Tensor


def _topk_activation(x: Tensor, k: int, by: int) -> Tensor:
    return x.new_empty(x.shape)


def _topk_activation_compact(x: Tensor, k: int, by: int) -> tuple[Tensor, Tensor, Tensor]:
    compact = (*x.shape[:-1], k)
    return x.new_empty(x.shape), x.new_empty(compact), x.new_empty(compact, dtype=torch.int32)


def _topk_activation_backward(
    grad: Tensor | None, grad_values: Tensor | None, indices: Tensor, dim: int
) -> Tensor:
    like = grad_values if grad is None else grad
    return like.new_empty((*indices.shape[:-1], dim))


def _topk_linear(
    x: Tensor, k: int, by: int, weight: Tensor, bias: Tensor, scale: Tensor | None, dense: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    y, values, indices = _topk_activation_compact(x, k, by)
    return out, y if dense else x.new_empty(0), values, indices


def _topk_linear_backward(
    grad_out: Tensor,
    grad_y: Tensor | None,
    values: Tensor,
    indices: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    want_dx: bool,
    want_layer: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = weight.new_empty((*indices.shape[:-1], weight.shape[1]) if want_dx else 0)
    dweight = weight.new_empty(weight.shape if want_layer else 0)
    return dx, dweight, weight.new_empty(weight.shape[:1] if want_layer else 0)


# One entry for each op that csrc/ registers, under its name.
FAKES = {
    "topk_activation": _topk_activation,
    "topk_activation_compact": _topk_activation_compact,
    "topk_activation_backward": _topk_activation_backward,
    "topk_linear": _topk_linear,
    "topk_linear_backward": _topk_linear_backward,
}
