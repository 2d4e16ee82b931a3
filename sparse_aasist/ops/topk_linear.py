"""A linear layer on the k highest values of the last dimension, fused with their selection.

The last hidden layer and the classifier of TopK-AASIST; also any layer of a few outputs behind a
TopK activation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_aasist.ops._arguments import matched
from sparse_aasist.ops._backend import (
    device_type,
    needs_reference,
    use_kernel,
    without_autocast,
)
from sparse_aasist.ops.topk_activation import check_topk, topk_activation_reference

MAX_CLASSES = 1024
"""Most outputs of the layer."""

_NAME = "topk_linear"


class TopkLinearOutput(NamedTuple):
    """What `topk_linear` returns with `return_activation=True`.

    Attributes:
        output: (..., C), dtype of x.
        activation: (..., D), dtype of x: the kept entries, zeros elsewhere, not scaled.
    """

    output: Tensor
    activation: Tensor


def topk_linear(
    x: Tensor,
    k: int,
    weight: Tensor,
    bias: Tensor,
    *,
    by: str = "value",
    scale: Tensor | None = None,
    return_activation: bool = False,
) -> Tensor | TopkLinearOutput:
    """Apply a linear layer to `topk_activation(x, k, by=by)` without forming it.

    out_c = sum over kept j of s_j f(x_j) W_cj + b_c, with s = 1 without `scale`; selection and f
    are those of `topk_activation`. Products and sums are float64, rounded once, so that backends
    and thread counts agree but for rare last bits. The backward pass is deterministic.

    Autocast does not change x: weight, bias and scale are cast to its dtype. `torch.compile` and
    `torch.export` trace through it, with k, C and D fixed; under `torch.func` transforms and
    forward-mode AD it runs as plain PyTorch. Gradients can be taken once. Where weight or
    gradients are not finite, the kernels, which read what is kept only, and the reference, which
    multiplies by zeros, differ.

    Args:
        x: (..., D), float32, float64, float16 or bfloat16, any strides; 1 <= D <= 131,072.
        k: how many entries of each row to keep, 1..D.
        weight: (C, D), dtype and device of x; 1 <= C <= 1,024.
        bias: (C,), dtype and device of x.
        by: "value", "abs" or "relu", as in `topk_activation`.
        scale: shape, dtype and device of x, a constant factor on the kept entries: the noise of a
            dropout layer between selection and layer.
        return_activation: also return the dense activation, written in the same pass.

    Returns:
        (..., C), dtype of x; or a TopkLinearOutput.

    Raises:
        TypeError: an argument is no tensor or of the wrong dtype, or k is not an int.
        ValueError: k, `by`, a shape or a device does not fit, or scale requires a gradient.

    Source: `topk_activation` followed by the classifier of clovaai/aasist, models/AASIST.py.
    """
    rule = check_topk(x, k, by)
    weight, bias, scale = _layer(x, weight, bias, scale)
    if not use_kernel(_NAME, device_type(x)) or needs_reference():
        return _reference(x, k, by, weight, bias, scale, return_activation)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    run = _TopkLinear.apply if needs_grad else torch.ops.sparse_aasist.topk_linear.default
    output, activation, *_ = run(x, k, rule, weight, bias, scale, return_activation)
    return TopkLinearOutput(output, activation) if return_activation else output


def topk_linear_reference(
    x: Tensor,
    k: int,
    weight: Tensor,
    bias: Tensor,
    *,
    by: str = "value",
    scale: Tensor | None = None,
    return_activation: bool = False,
) -> Tensor | TopkLinearOutput:
    """Compute `topk_linear` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `topk_linear`.
    """
    check_topk(x, k, by)
    weight, bias, scale = _layer(x, weight, bias, scale)
    return _reference(x, k, by, weight, bias, scale, return_activation)


def _reference(
    x: Tensor,
    k: int,
    by: str,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    return_activation: bool,
) -> Tensor | TopkLinearOutput:
    activation = topk_activation_reference(x, k, by=by)
    kept = activation.double()
    if scale is not None:
        kept = kept * scale.double()
    with without_autocast(x):
        output = F.linear(kept, weight.double(), bias.double()).to(x.dtype)
    return TopkLinearOutput(output, activation) if return_activation else output


class _TopkLinear(torch.autograd.Function):
    """The raw op with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        k: int,
        rule: int,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        dense: bool,
    ) -> tuple[Tensor, Tensor | None]:
        output, activation, values, coded = torch.ops.sparse_aasist.topk_linear.default(
            x, k, rule, weight, bias, scale, dense
        )
        ctx.save_for_backward(values, coded, weight, scale)
        ctx.set_materialize_grads(False)
        if not dense:
            return output, None
        if not ctx.needs_input_grad[0]:
            ctx.mark_non_differentiable(activation)
        return output, activation

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_activation: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        values, coded, weight, scale = ctx.saved_tensors
        if grad_output is None:
            grad_output = values.new_zeros((*values.shape[:-1], weight.shape[0]))
        # Of x, weight and bias.
        wants = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
        grads = torch.ops.sparse_aasist.topk_linear_backward.default(
            *(grad_output, grad_activation, values, coded, weight, scale),
            *(wants[0], wants[1] or wants[2]),
        )
        dx, dweight, dbias = (g if want else None for g, want in zip(grads, wants, strict=True))
        return dx, None, None, dweight, dbias, None, None


def _layer(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check what comes with x, and cast it under autocast."""
    of_scale = {} if scale is None else {"scale": scale}
    named = matched({"x": x, "weight": weight, "bias": bias} | of_scale)
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"weight must be (C, {x.shape[-1]}) for x with last dimension {x.shape[-1]}, "
            f"got {tuple(weight.shape)}"
        )
    if not 1 <= weight.shape[0] <= MAX_CLASSES:
        raise ValueError(f"weight must have 1..{MAX_CLASSES:,} rows, got {weight.shape[0]:,}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be ({weight.shape[0]},) as weight has that many rows, "
            f"got {tuple(bias.shape)}"
        )
    if scale is not None and scale.shape != x.shape:
        raise ValueError(
            f"scale must have the shape of x, {tuple(x.shape)}, got {tuple(scale.shape)}"
        )
    if scale is not None and scale.requires_grad:
        raise ValueError("scale is a constant: it must not require a gradient; detach it")
    return named["weight"], named["bias"], named.get("scale")
