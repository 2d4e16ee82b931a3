"""When an op may read the weights of modules instead of their being called, and what it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from sparse_aasist.ops import Convolution, Normalisation

_ORDINARY = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


def only_computes(module: nn.Module, dtype: torch.dtype, *, training: bool = False) -> bool:
    """Tell whether calling `module` is no more than the arithmetic that an op does for it.

    It is more, or something else, with a hook on it or on a module in it; where one was replaced,
    parametrized or patched; with dropout on, and with statistics that are not fixed (with
    `training`: not of the batch); and in several dtypes.
    """
    # Plain loops over plain dictionaries: this runs for every module of every call.
    for name in _GLOBAL_HOOKS:
        if getattr(torch_module, name):
            return False
    children = [child for child in module._modules.values() if child is not None]
    for child in children:
        if not is_ordinary(child, dtype):
            return False
    for part in (module, *children):
        attributes = part.__dict__
        if attributes["training"] != training or "forward" in attributes:
            return False
        for name in _HOOKS:
            if attributes[name]:
                return False
    return True


def is_ordinary(module: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether `module` is one of PyTorch's, as our models make them."""
    kind = type(module)
    if kind not in _ORDINARY:
        return False
    if kind is nn.Dropout:
        return True
    parameters = module._parameters
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if weight is None or bias is None or weight.dtype is not dtype or bias.dtype is not dtype:
        return False
    if kind is nn.Conv2d:
        ordinary = (module.stride, module.dilation, module.groups, module.padding_mode)
        return ordinary == ((1, 1), (1, 1), 1, "zeros")
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        statistics = (module._buffers.get(name) for name in ("running_mean", "running_var"))
        kept = all(tensor is not None and tensor.dtype is dtype for tensor in statistics)
        return kept and module.momentum is not None and module.track_running_stats
    return True


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what an op reads of a module, past `nn.Module`'s look-up, which takes longer."""
    return module._parameters["weight"], module._parameters["bias"]


def convolution(module: nn.Conv2d) -> Convolution:
    """Return what an op reads of a convolution."""
    return Convolution(*weight_and_bias(module))


def normalisation(module: nn.BatchNorm2d) -> Normalisation:
    """Return what an op reads of a batch normalisation with fixed statistics."""
    weight, bias = weight_and_bias(module)
    return Normalisation(weight, bias, module.running_mean, module.running_var, module.eps)
