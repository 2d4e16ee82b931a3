"""Models whose graphs are compared, what their encoders might give them, and the oracle."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparse_aasist import AASIST
from sparse_aasist.models.graph_stack import draw_noise, move_all_statistics, stack_arguments

# Configuration, batch, time steps. Bands are a third of the filters, channels the last width.
NARROW: dict[str, Any] = {
    "dim": 35,
    "gat_dim": 5,
    "filts": ((10, (1, 3), (3, 3), (3, 9), (9, 9))),
}
CASES = {
    "published": ({"dim": 160}, 2, 29),
    "wider": ({"dim": 320}, 3, 14),
    "narrow": (NARROW, 3, 7),
    "one node": (NARROW | {"filts": ((3, (1, 3), (3, 3), (3, 9), (9, 9)))}, 2, 1),
    "widths beyond a tile": (
        {"dim": 345, "gat_dim": 70, "filts": ((12, (1, 2), (2, 2), (2, 101), (101, 101)))},
        *(1, 6),
    ),
    "long": ({"dim": 160, "pool_ratios": (0.3, 0.9, 0.4)}, 1, 90),
    "all kept": (NARROW | {"pool_ratios": (1.0, 1.0, 1.0)}, 2, 4),
}


def live_model(config: dict[str, Any], dtype: torch.dtype) -> AASIST:
    """Return a model whose attention differs between nodes, with running statistics."""
    torch.manual_seed(0)
    model = AASIST(**config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "att_weight" in name:
                temperature = 100.0 if "Htrg" in name else 2.0
                parameter.normal_(std=3 * temperature / parameter.shape[0])
            elif ".bn." in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.normal_()
            elif "running_var" in name:
                buffer.uniform_(0.5, 2)
    return model


def training_model(config: dict[str, Any], dtype: torch.dtype) -> AASIST:
    return live_model(config, dtype).train()


def features_for(model: AASIST, batch: int, steps: int, seed: int = 0) -> Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.filts[-1][-1], config.filts[0] // 3, steps)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(model.pos_S.dtype)


def noise_for(model: AASIST, features: Tensor, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return draw_noise(model, features, stack_arguments(model, features).kept)


class StackGradients(NamedTuple):
    """What graph_stack gives in training.

    Attributes:
        statistics: running ones, by the name of the buffer.
        weights: gradients, by the name of the parameter.
    """

    readout: Tensor
    statistics: dict[str, Tensor]
    features: Tensor
    weights: dict[str, Tensor]


class _Noise(nn.Module):
    """Stands for all dropout of a model: the factors are given, in the order of its calls."""

    def __init__(self, factors: Iterator[Tensor]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.factors)


# Where the modules ask for the noise that draw_noise returns as number n.
_CALL_ORDER = (1, 7, 0, 6, 2, 9, 8, 3, 4, 11, 10, 5, 12, 15, 13, 16, 14, 17)


def reference_readout(model: AASIST, features: Tensor, noise: list[Tensor]) -> Tensor:
    """Run the modules with this noise of dropout."""
    factors = iter([noise[number] for number in _CALL_ORDER])
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, _Noise(factors))
    readout = model._read_graphs(features)
    assert next(factors, None) is None
    return readout


def stack_gradients(
    model: AASIST, features: Tensor, readout: Tensor, grad: Tensor
) -> StackGradients:
    """Collect what a readout in training has left, and its gradients."""
    named = {n: p for n, p in model.named_parameters() if _is_of_graphs(n)}
    dfeatures, *gradients = torch.autograd.grad(readout, [features, *named.values()], grad)
    return StackGradients(
        readout.detach().cpu(),
        {name: buffer.cpu() for name, buffer in model.named_buffers() if _is_of_graphs(name)},
        dfeatures.cpu(),
        {name: g.cpu() for name, g in zip(named, gradients, strict=True)},
    )


def expected_training(
    model: AASIST, features: Tensor, noise: list[Tensor], grad: Tensor
) -> StackGradients:
    """Run the modules in float64."""
    model = copy.deepcopy(model).double()
    features = features.detach().double().requires_grad_()
    readout = reference_readout(model, features, [factors.double() for factors in noise])
    return stack_gradients(model, features, readout, grad.double())


def _is_of_graphs(name: str) -> bool:
    return not name.startswith(("conv_time", "first_bn", "encoder", "head", "out_layer"))


def with_statistics(model: AASIST, features: Tensor, statistics: list[Tensor]) -> dict[str, Tensor]:
    """Return the running statistics after a batch with these ones."""
    model = copy.deepcopy(model)
    move_all_statistics(model, statistics, features, stack_arguments(model, features).kept)
    return {name: buffer for name, buffer in model.named_buffers() if _is_of_graphs(name)}
