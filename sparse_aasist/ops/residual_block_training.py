"""`residual_block` with the statistics of its batch, and its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_aasist.ops._backend import autocast_dtype
from sparse_aasist.ops.residual_block import (
    POOL_STEP,
    Convolution,
    check_block,
    has_other_weights,
    kernel_dtype,
)


class ResidualTrainingOutput(NamedTuple):
    """What `residual_block_training` returns.

    Attributes:
        out: (B, O, H, T // 3).
        mean, variance: (O), without gradients: of what is normalised; the variance is biased.
            A kernel's are float32.
        input_mean, input_variance: (C), likewise, of x.
    """

    out: Tensor
    mean: Tensor
    variance: Tensor
    input_mean: Tensor
    input_variance: Tensor


def residual_block_training(
    x: Tensor,
    conv1: Convolution,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    conv2: Convolution,
    shortcut: Convolution | None = None,
) -> ResidualTrainingOutput:
    """Compute `residual_block` with the statistics of the batch.

    For the gradient it keeps conv1(x), and which of three steps each result came from. The gradient
    is deterministic and independent of the number of threads; it cannot itself be differentiated.
    Kernels are there for the dtypes and widths of `residual_block`; all else runs as plain PyTorch.

    In bfloat16, where the statistics are those of the rounded conv1(x), the gradient rounds to
    bfloat16: that of the result, those of the normalised and of the raw conv1(x), and that of x.
    Those of the weights are sums in float32, and stay so; that of conv1's bias, which the
    statistics take away, is 0. With one input channel conv1(x) is not kept, but computed again.

    Args:
        x, conv1, conv2, shortcut: as for `residual_block`.
        norm_weight, norm_bias: (O), the affine part of the normalisation.
        eps: what is added to the variance.

    Returns:
        ResidualTrainingOutput(out, mean, variance, input_mean, input_variance).

    Raises:
        TypeError, ValueError: as `residual_block`.

    Source: as `residual_block`; batch normalisation, arXiv 1502.03167.
    """
    is_mixed = has_other_weights(_check(x, conv1, norm_weight, norm_bias, conv2, shortcut))
    dtype = kernel_dtype(x, conv1.weight, shortcut is not None, training=True)
    if is_mixed or dtype is None:
        return _reference(x, conv1, norm_weight, norm_bias, eps, conv2, shortcut)
    weights = (*conv1, norm_weight, norm_bias, eps, *conv2, *(shortcut or (None, None)))
    out, *statistics = _ResidualBlock.apply(x.to(dtype), *weights)
    return ResidualTrainingOutput(out.to(autocast_dtype(x) or dtype), *statistics)


def residual_block_training_reference(
    x: Tensor,
    conv1: Convolution,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    conv2: Convolution,
    shortcut: Convolution | None = None,
) -> ResidualTrainingOutput:
    """Compute `residual_block_training` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `residual_block_training`.
    """
    _check(x, conv1, norm_weight, norm_bias, conv2, shortcut)
    return _reference(x, conv1, norm_weight, norm_bias, eps, conv2, shortcut)


class _ResidualBlock(torch.autograd.Function):
    """The kernels with their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor | float | None) -> tuple[Tensor, ...]:
        out, *kept, input_mean, input_variance = (
            torch.ops.sparse_aasist.residual_block_training.default(x, *weights)
        )
        ctx.eps = weights[4]
        tensors = (*weights[:4], *weights[5:])
        ctx.save_for_backward(*kept, x, *tensors)
        statistics = (*kept[2:], input_mean, input_variance)
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *before, conv2_weight, conv2_bias, shortcut_weight, shortcut_bias = ctx.saved_tensors
        after = (conv2_weight, conv2_bias, shortcut_weight, shortcut_bias)
        grads = torch.ops.sparse_aasist.residual_block_training_backward.default(
            grad, *before, ctx.eps, *after
        )
        if shortcut_weight is None:
            grads = (*grads[:7], None, None)
        return *grads[:5], None, *grads[5:]


def _check(
    x: Tensor,
    conv1: Convolution,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv2: Convolution,
    shortcut: Convolution | None,
) -> list[Tensor]:
    of_norm = {"norm_weight": norm_weight, "norm_bias": norm_bias}
    return check_block(x, conv1, of_norm, conv2, shortcut)


def _reference(
    x: Tensor,
    conv1: Convolution,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    conv2: Convolution,
    shortcut: Convolution | None,
) -> ResidualTrainingOutput:
    middle = F.conv2d(x, *conv1, padding=(1, 1))
    statistics: list[Tensor] = []
    for tensor in (middle, x):
        variance, mean = torch.var_mean(tensor.detach(), dim=(0, 2, 3), correction=0)
        statistics += (mean, variance)
    middle = F.batch_norm(middle, None, None, norm_weight, norm_bias, training=True, eps=eps)
    # In place where autograd allows: the tensors are the largest of the model.
    out = F.conv2d(F.selu(middle, inplace=True), *conv2, padding=(0, 1))
    out += x if shortcut is None else F.conv2d(x, *shortcut, padding=(0, 1))
    return ResidualTrainingOutput(F.max_pool2d(out, (1, POOL_STEP)), *statistics)
