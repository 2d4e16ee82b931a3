"""Checks of arguments that all ops share."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_aasist.ops._backend import autocast_is_on

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_alike(tensors: dict[str, Tensor]) -> None:
    """Check that tensors have the device of the first and, but under autocast, its dtype.

    Args:
        tensors: by the names that errors use.

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
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype and not autocast_is_on(first):
            raise TypeError(
                f"{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}"
            )


def matched(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Check tensors and return them in the dtype of the first, which autocast does not change.

    Args, Raises: as `check_alike`.
    """
    check_alike(tensors)
    dtype = next(iter(tensors.values())).dtype
    return {
        name: tensor if tensor.dtype == dtype else tensor.to(dtype)
        for name, tensor in tensors.items()
    }
