"""Graph pooling: keep the nodes with the highest sigmoid scores, scaled by them, best first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_aasist.ops._arguments import matched
from sparse_aasist.ops._backend import device_type, needs_reference, use_kernel
from sparse_aasist.ops.topk_activation import order_keys

MAX_NODES = 4096
"""Larger graphs run as the reference."""

_NAME = "graph_pool"


def graph_pool(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float, *, scale: Tensor | None = None
) -> Tensor:
    """Keep max(int(N * ratio), 1) nodes of each graph, scaled by their scores, best first.

    score_i = sigmoid(w . (h_i * scale_i) + b); the node of rank r becomes row r of the output,
    h_i * score_i. Scores are computed in float64 and rounded to the dtype of h before they are
    ranked; the lowest index comes first among equals, NaN before all. The gradient is that of the
    kept rows; it is deterministic, and can be taken once.

    Autocast does not change h: the other tensors are cast to its dtype. `torch.compile` and
    `torch.export` trace through it; under `torch.func` transforms and forward-mode AD, and for
    more than 4,096 nodes, it runs as plain PyTorch.

    Args:
        h: (B, N, D), float32, float64, float16 or bfloat16: N >= 1 nodes of width D >= 1.
        weight, bias: (1, D) and (1), dtype of h: the projection of torch.nn.Linear(D, 1).
        ratio: share of nodes to keep, in 0..1; at least one is.
        scale: (B, N, D), a factor on the nodes that are scored, not on those that are kept: what
            dropout makes of ones. It gets no gradient.

    Returns:
        (B, max(int(N * ratio), 1), D), dtype of h.

    Raises:
        TypeError: a dtype is another one, or ratio is not a number.
        ValueError: a shape or device does not fit h, ratio is not in 0..1, or scale requires a
            gradient.

    Source: clovaai/aasist, models/AASIST.py (GraphPool); arXiv 1905.05178, eq. 2.
    """
    weight, bias, scale = _check(h, weight, bias, ratio, scale)
    kept = max(int(h.shape[1] * ratio), 1)
    if h.shape[1] > MAX_NODES or not use_kernel(_NAME, device_type(h)) or needs_reference():
        return _reference(h, weight, bias, kept, scale)
    if torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad or bias.requires_grad):
        return _GraphPool.apply(h, weight, bias, kept, scale)
    return torch.ops.sparse_aasist.graph_pool.default(h, weight, bias, kept, scale)[0]


def graph_pool_reference(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float, *, scale: Tensor | None = None
) -> Tensor:
    """Compute `graph_pool` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `graph_pool`.
    """
    weight, bias, scale = _check(h, weight, bias, ratio, scale)
    return _reference(h, weight, bias, max(int(h.shape[1] * ratio), 1), scale)


class _GraphPool(torch.autograd.Function):
    """The kernels with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, kept: int, scale: Tensor | None
    ) -> Tensor:
        out, scores, indices = torch.ops.sparse_aasist.graph_pool.default(
            h, weight, bias, kept, scale
        )
        ctx.save_for_backward(scores, indices, h, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.ops.sparse_aasist.graph_pool_backward.default(grad, *ctx.saved_tensors)
        return *grads, None, None


def _reference(h: Tensor, weight: Tensor, bias: Tensor, kept: int, scale: Tensor | None) -> Tensor:
    scored = h.double() if scale is None else h.double() * scale.double()
    # Not as a product of matrices, whose sums may differ between equal nodes.
    scores = torch.sigmoid((scored * weight.double()).sum(-1, keepdim=True) + bias.double())
    rounded = scores.detach().to(h.dtype)
    # Stable: the lowest index first among equal scores.
    order = order_keys(rounded, "value").sort(dim=1, descending=True, stable=True).indices
    order = order[:, :kept]
    nodes = h.gather(1, order.expand(-1, -1, h.shape[2]))
    # Has the value of the rounded scores, and the gradient of those that are not.
    factors = scores + (rounded.double() - scores).detach()
    return (nodes.double() * factors.gather(1, order)).to(h.dtype)


def _check(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check the arguments; return the tensors beside h, in its dtype under autocast."""
    of_scale = {} if scale is None else {"scale": scale}
    named = matched({"h": h, "weight": weight, "bias": bias} | of_scale)
    if h.dim() != 3 or 0 in h.shape[1:]:
        raise ValueError(
            f"h must be (batch, nodes, dim) with nodes and a width, got {tuple(h.shape)}"
        )
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool):
        raise TypeError(f"ratio must be a number, got {ratio!r}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in 0..1, got {ratio}")
    shapes = {"weight": (1, h.shape[2]), "bias": (1,), "scale": tuple(h.shape)}
    for name, tensor in named.items():
        if name != "h" and tensor.shape != shapes[name]:
            raise ValueError(f"{name} must be {shapes[name]}, got {tuple(tensor.shape)}")
    if scale is not None and scale.requires_grad:
        raise ValueError("scale is a constant: it must not require a gradient; detach it")
    return named["weight"], named["bias"], named.get("scale")
