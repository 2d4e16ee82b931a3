"""Checks of arguments that all ops share."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_aasist.ops._backend import autocast_is_on

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def matched(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Check that tensors have the dtype and device of the first.

    Args:
        tensors: by the names that errors use.

    Returns:
        The tensors, under autocast all in the dtype of the first, which it does not change.

    Raises:
        TypeError: one is not a tensor, or a dtype is none of DTYPES or another one.
        ValueError: a device is another one.
    """
    first_name, first = next(iter(tensors.items()))
    if not isinstance(first, Tensor):
        raise TypeError(f"{first_name} must be a tensor, got {type(first).__name__}")
    if first.dtype not in DTYPES:
        raise TypeError(
            f"{first_name} must be float32, float64, float16 or bfloat16, got {first.dtype}"
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if not (tensor.is_cpu and first.is_cpu) and tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device} but {first_name} is on {first.device}")
    if autocast_is_on(first):
        tensors = {name: tensor.to(first.dtype) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype:
            raise TypeError(
                f"{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}"
            )
    return tensors
