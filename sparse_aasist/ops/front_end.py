"""AASIST's fixed filter bank with all that follows it up to the encoder, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_aasist.ops._arguments import check_alike
from sparse_aasist.ops._backend import (
    device_type,
    needs_reference,
    use_kernel,
    without_autocast,
)
from sparse_aasist.ops.residual_block import Normalisation

POOL = 3
"""The largest magnitude of 3 filters times 3 samples is kept."""

_NAME = "front_end"
_NO_NORM = (None, None, None, None, 0.0)


def front_end(waveform: Tensor, filters: Tensor, norm: Normalisation | None = None) -> Tensor:
    """Filter a waveform, keep the largest magnitudes, normalise.

    out = selu(norm(max_pool(|conv(waveform, filters)|))), the pool over 3 filters and 3 samples;
    without norm, which in training is to be of the batch, what is pooled.

    The kernels are for float32 on a CPU or a GPU without gradients; all else runs as plain PyTorch.
    All compute in the dtype of the waveform, under autocast too, and the kernels without TF32.

    Args:
        waveform: (B, T), T >= taps + 2.
        filters: (F, 1, taps), F >= 3, symmetric in an odd number of taps.
        norm: of one channel, or None.

    Returns:
        (B, 1, F // 3, (T - taps + 1) // 3), dtype of waveform.

    Raises:
        TypeError: a dtype is not that of waveform, or no floating point.
        ValueError: a shape or device does not fit waveform.
        RuntimeError: the filters are not symmetric (the kernel of the CPU tells). That of the GPU
            cannot without waiting for it: what it computes from such a filter is NaN.

    Source: clovaai/aasist, models/AASIST.py (CONV, Model.forward).
    """
    tensors = _check(waveform, filters, norm)
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if waveform.dtype is not torch.float32 or wants_gradient or needs_reference():
        return front_end_reference(waveform, filters, norm)
    if not use_kernel(_NAME, device_type(waveform)):
        return front_end_reference(waveform, filters, norm)
    return torch.ops.sparse_aasist.front_end.default(waveform, filters, *(norm or _NO_NORM))


def front_end_reference(
    waveform: Tensor, filters: Tensor, norm: Normalisation | None = None
) -> Tensor:
    """Compute `front_end` with PyTorch's own ops, on any device, with gradients, for any filters.

    Args, Returns, Raises: as `front_end`.
    """
    _check(waveform, filters, norm)
    # A waveform spans more range than bf16 resolves, and this is 6 % of the arithmetic.
    with without_autocast(waveform):
        bands = F.conv1d(waveform.unsqueeze(1), filters).abs()
        pooled = F.max_pool2d(bands.unsqueeze(1), POOL)
        if norm is None:
            return pooled
        return F.selu(
            F.batch_norm(pooled, norm.mean, norm.variance, norm.weight, norm.bias, eps=norm.eps)
        )


def _check(waveform: Tensor, filters: Tensor, norm: Normalisation | None) -> list[Tensor]:
    """Check the arguments; return their tensors."""
    named = {"waveform": waveform, "filters": filters}
    of_norm = {} if norm is None else {f"norm.{n}": getattr(norm, n) for n in norm._fields[:4]}
    named |= of_norm
    check_alike(named)
    is_bank = filters.dim() == 3 and filters.shape[0] >= POOL and filters.shape[1] == 1
    if not is_bank or filters.shape[2] % 2 == 0:
        raise ValueError(
            f"filters must be (filters, 1, taps), {POOL} or more with an odd number of taps, "
            f"got {tuple(filters.shape)}"
        )
    least = filters.shape[2] - 1 + POOL
    if waveform.dim() != 2 or waveform.shape[1] < least:
        raise ValueError(
            f"waveform must be (batch, samples) with {least} samples or more, "
            f"got {tuple(waveform.shape)}"
        )
    for name, tensor in of_norm.items():
        if tensor.shape != (1,):
            raise ValueError(f"{name} must be (1,), got {tuple(tensor.shape)}")
    return list(named.values())
