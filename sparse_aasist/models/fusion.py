"""When modules may be replaced by an op that reads their weights, and what such an op reads."""

from __future__ import annotations

from torch import nn

from sparse_aasist.ops import Convolution, Normalisation


def only_computes(module: nn.Module, training: bool = False) -> bool:
    """Tell whether calling `module` does no more than its arithmetic.

    With `training` that of batch statistics, without it that of fixed ones and without dropout. A
    hook on it or on a module in it does more.
    """
    for part in (module, *module._modules.values()):
        if part is None:
            continue
        if part.training != training or part._forward_hooks or part._forward_pre_hooks:
            return False
    return True


def convolution(module: nn.Conv2d) -> Convolution:
    """Return what an op reads of a convolution."""
    return Convolution(module.weight, module.bias)


def normalisation(module: nn.BatchNorm2d) -> Normalisation:
    """Return what an op reads of a batch normalisation."""
    return Normalisation(
        module.weight, module.bias, module.running_mean, module.running_var, module.eps
    )
