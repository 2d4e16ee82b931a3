"""A residual block of AASIST's encoder with fixed statistics, in one pass over its input."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_aasist.ops._arguments import check_alike
from sparse_aasist.ops._backend import (
    autocast_dtype,
    cpu_multiplies_bfloat16,
    device_type,
    needs_reference,
    use_kernel,
)

MAX_CHANNELS = 128
"""Wider blocks run as the reference."""
BFLOAT16_WIDTHS = ((1, 32), (32, 32), (32, 64), (64, 64))
"""Input and output channels of the blocks that have a kernel in bfloat16: those of AASIST, with a
shortcut where they differ and only there."""
MOST_CLIPS, MOST_STEPS = 1 << 30, (1 << 25) - 1
"""The kernels in bfloat16 index clips, and the steps of a row, in 32 bits."""
POOL_STEP = 3
"""The largest of three neighbouring time steps is kept."""

_NAME = "residual_block"


class Convolution(NamedTuple):
    """Weight (outputs, inputs, height, 3) and bias (outputs) of a convolution."""

    weight: Tensor
    bias: Tensor


class Normalisation(NamedTuple):
    """Batch normalisation with running statistics: four tensors (channels), and what is added to
    the variance."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float


def residual_block(
    x: Tensor,
    conv1: Convolution,
    norm: Normalisation,
    conv2: Convolution,
    shortcut: Convolution | None = None,
) -> Tensor:
    """Convolve twice, add a shortcut, keep the largest of three time steps.

    out = max_pool(conv2(selu(norm(conv1(x)))) + shortcut(x)), with paddings (1, 1), (0, 1) and
    (0, 1), so that the height is kept.

    Kernels are for calls without gradients; all else runs as plain PyTorch.

    In float32, on a CPU and up to 128 channels: Winograd's F(4, 3) along time. Values agree with
    direct convolution to some 1e-6 of the largest nearby, and one that is not finite makes up to 5
    steps of a row NaN in each convolution, not 3. On a GPU, where float32 is to be exact or TF32,
    cuDNN has the better kernels: it multiplies float32 on its ordinary cores.

    In bfloat16, under autocast and for float32 weights of `BFLOAT16_WIDTHS`: on a GPU's tensor
    cores, and on a CPU with AMX. Rounded to bfloat16 are x, the weights of the convolutions,
    conv1(x) with its bias, what SELU gives and the result; sums, biases and the normalisation are
    float32. With one input channel neither conv1's weights nor its result are rounded. On another
    CPU, and for other widths, autocast to bfloat16 rounds the result of the kernel in float32.

    Args:
        x: (B, C, H, T), T >= 3; best with channels last, as the result is.
        conv1: (O, C, 2, 3), norm: of O channels, conv2: (O, O, 2, 3).
        shortcut: (O, C, 1, 3); None is x itself, where C = O.

    Returns:
        (B, O, H, T // 3), dtype of x, or of autocast.

    Raises:
        TypeError: a dtype is not that of x, or no floating point; under autocast x may have its
            dtype beside float32 weights.
        ValueError: a shape or device does not fit x.

    Source: clovaai/aasist, models/AASIST.py (Residual_block); Winograd, arXiv 1509.09308.
    """
    tensors = _check(x, conv1, norm, conv2, shortcut)
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    dtype = kernel_dtype(x, conv1.weight, shortcut is not None)
    if wants_gradient or has_other_weights(tensors) or dtype is None:
        return residual_block_reference(x, conv1, norm, conv2, shortcut)
    out = torch.ops.sparse_aasist.residual_block.default(
        x.to(dtype), *conv1, *norm, *conv2, *(shortcut or (None, None))
    )
    return out.to(autocast_dtype(x) or dtype)


def residual_block_reference(
    x: Tensor,
    conv1: Convolution,
    norm: Normalisation,
    conv2: Convolution,
    shortcut: Convolution | None = None,
) -> Tensor:
    """Compute `residual_block` with PyTorch's own ops, on any device, with gradients.

    Args, Returns, Raises: as `residual_block`.
    """
    _check(x, conv1, norm, conv2, shortcut)
    middle = F.conv2d(x, *conv1, padding=(1, 1))
    middle = F.batch_norm(middle, norm.mean, norm.variance, norm.weight, norm.bias, eps=norm.eps)
    # In place: the tensors are the largest of the model.
    out = F.conv2d(F.selu(middle, inplace=True), *conv2, padding=(0, 1))
    out += x if shortcut is None else F.conv2d(x, *shortcut, padding=(0, 1))
    return F.max_pool2d(out, (1, POOL_STEP))


def kernel_dtype(
    x: Tensor, conv1_weight: Tensor, has_shortcut: bool, *, training: bool = False
) -> torch.dtype | None:
    """Return the dtype in which a kernel reads x, for a block with this weight (O, C, 2, 3).

    None: there is no kernel; its limits are those of the functions.
    """
    if conv1_weight.dtype is not torch.float32 or x.shape[0] == 0 or needs_reference():
        return None
    kind, lowered = device_type(x), autocast_dtype(x)
    outputs, inputs = conv1_weight.shape[:2]
    if x.dtype is not torch.float32 and x.dtype is not lowered:
        return None
    dtype = None
    if lowered is torch.bfloat16 and _has_bfloat16(x, inputs, outputs, has_shortcut):
        dtype = lowered
    elif kind == "cpu" and lowered in (None, torch.bfloat16):
        dtype = torch.float32 if max(inputs, outputs) <= MAX_CHANNELS else None
    if dtype is None or not use_kernel(f"{_NAME}_training" if training else _NAME, kind):
        return None
    return dtype


def _has_bfloat16(x: Tensor, inputs: int, outputs: int, has_shortcut: bool) -> bool:
    kind, (clips, _, _, steps) = device_type(x), x.shape
    # Not `in`: of symbolic widths torch.compile would make one condition, and never be done.
    fits = any(inputs == a and outputs == b for a, b in BFLOAT16_WIDTHS)
    fits = fits and has_shortcut == (inputs != outputs)
    fits = fits and clips <= MOST_CLIPS and steps <= MOST_STEPS
    return fits and (kind == "cuda" or (kind == "cpu" and cpu_multiplies_bfloat16()))


def has_other_weights(tensors: list[Tensor]) -> bool:
    """Tell whether not all that `check_block` returned, but for x, is float32: autocast lets it."""
    return any(tensor.dtype is not torch.float32 for tensor in tensors[1:])


def _check(
    x: Tensor,
    conv1: Convolution,
    norm: Normalisation,
    conv2: Convolution,
    shortcut: Convolution | None,
) -> list[Tensor]:
    of_norm = {f"norm.{name}": getattr(norm, name) for name in norm._fields[:4]}
    return check_block(x, conv1, of_norm, conv2, shortcut)


def check_block(
    x: Tensor,
    conv1: Convolution,
    of_norm: dict[str, Tensor],
    conv2: Convolution,
    shortcut: Convolution | None,
) -> list[Tensor]:
    """Check the arguments of a block, those of its normalisation by name; return their tensors."""
    named = {"x": x, "conv1.weight": conv1.weight, "conv1.bias": conv1.bias, **of_norm}
    named |= {"conv2.weight": conv2.weight, "conv2.bias": conv2.bias}
    if shortcut is not None:
        named |= {"shortcut.weight": shortcut.weight, "shortcut.bias": shortcut.bias}
    check_alike(named)
    if x.dim() != 4 or 0 in x.shape[1:3] or x.shape[3] < POOL_STEP:
        raise ValueError(
            f"x must be (batch, channels, height, steps) with {POOL_STEP} steps or more, "
            f"got {tuple(x.shape)}"
        )
    inputs, outputs = x.shape[1], conv1.bias.shape[0] if conv1.bias.dim() == 1 else 0
    if shortcut is None and inputs != outputs:
        raise ValueError(f"a block from {inputs} to {outputs} channels needs a shortcut")
    shapes = {
        "conv1.weight": (outputs, inputs, 2, 3),
        "conv2.weight": (outputs, outputs, 2, 3),
        "shortcut.weight": (outputs, inputs, 1, 3),
    }
    for name, tensor in named.items():
        shape = shapes.get(name, (outputs,))
        if name != "x" and tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    return list(named.values())
