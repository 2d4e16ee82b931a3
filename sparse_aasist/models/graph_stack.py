"""Graphs of AASIST without gradients, as one op: seven launches on a GPU.

The op reads the weights of the modules in models/graph.py, which stay its reference: they run in
training, on other devices and dtypes, and under `ops.backend("reference")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from sparse_aasist.models.fusion import only_computes, weight_and_bias
from sparse_aasist.models.graph import GraphAttention, GraphPool, HeteroGraphAttention
from sparse_aasist.ops._backend import device_type, needs_reference, use_kernel
from sparse_aasist.ops.graph_attention import MAX_NODES, MAX_WIDTH

if TYPE_CHECKING:
    from sparse_aasist.models.aasist import AASIST

_NAME = "graph_stack"
_DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.float32,)}

# Children and parameters of a layer, in the order in which csrc/graph_stack.h reads them.
_MIX = ("proj_with_att", "proj_without_att", "bn")
_PLAIN = ("att_proj", "att_weight", *_MIX)
_HETERO = (
    *("att_proj", "att_weight11", "att_weight22", "att_weight12", *_MIX),
    *("proj_type1", "proj_type2", "att_projM", "att_weightM", "proj_with_attM"),
    "proj_without_attM",
)
_LAYERS = {
    "GAT_layer_T": _PLAIN,
    "GAT_layer_S": _PLAIN,
    **{f"HtrgGAT_layer_ST{number}": _HETERO for number in (11, 12, 21, 22)},
}
_POOLS = ("pool_T", "pool_S", "pool_hT1", "pool_hS1", "pool_hT2", "pool_hS2")
_TYPES = {
    **{
        name: GraphAttention if parts is _PLAIN else HeteroGraphAttention
        for name, parts in _LAYERS.items()
    },
    **dict.fromkeys(_POOLS, GraphPool),
    "drop_way": nn.Dropout,
}


class StackArguments(NamedTuple):
    """What the op takes beside the features, in the order of csrc/graph_stack.h.

    Attributes:
        weights: of the layers, then of the pools, behind the position and both masters.
        kept: temporal and spectral nodes that the first pools keep, then the second ones.
        temperatures, eps: of each layer.
    """

    weights: list[Tensor]
    kept: list[int]
    temperatures: list[float]
    eps: list[float]


def graph_stack(model: AASIST, features: Tensor) -> Tensor | None:
    """Run graphs and readout of `model` on the output of its encoder.

    Args:
        model: its graph modules are read, not called.
        features: (B, C, F, T), the encoder's output, in the dtype of the parameters.

    Returns:
        The readout (B, D), or None where the modules must run one by one: in training, for a
        gradient, where they do more than their arithmetic (`models.fusion`), on other devices or
        dtypes, and for sizes beyond those of `ops.graph_attention`.
    """
    kind = device_type(features)
    if features.dtype not in _DTYPES.get(kind, ()) or not use_kernel(_NAME, kind):
        return None
    modules = [model._modules[name] for name in _TYPES]
    if needs_reference() or list(map(type, modules)) != list(_TYPES.values()):
        return None
    if not all(only_computes(module, features.dtype) for module in modules):
        return None
    arguments = stack_arguments(model, features)
    weights, kept = arguments.weights, arguments.kept
    widths = (features.shape[1], model.master1.shape[2], weights[-2].shape[1])
    nodes = (*features.shape[2:], kept[0] + kept[1])
    if max(widths) > MAX_WIDTH or max(nodes) > MAX_NODES:
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (features, *weights)):
        return None
    return torch.ops.sparse_aasist.graph_stack.default(features, *arguments)


def stack_arguments(model: AASIST, features: Tensor) -> StackArguments:
    """Collect the arguments of the op; `nn.Module`'s own look-up would take longer than it."""
    layers = [model._modules[name] for name in _LAYERS]
    pools = [model._modules[name] for name in _POOLS]
    weights = [model.pos_S, model.master1, model.master2]
    for layer, names in zip(layers, _LAYERS.values(), strict=True):
        weights += _tensors(layer, names)
    for pool in pools:
        weights += weight_and_bias(pool._modules["proj"])
    kept = [features.shape[3], features.shape[2]]
    for pool in pools[:4]:
        kept.append(max(int(kept[-2] * pool.ratio), 1))
    return StackArguments(
        weights,
        kept[2:],
        [layer.temperature for layer in layers],
        [layer.bn.eps for layer in layers],
    )


def _tensors(layer: nn.Module, names: tuple[str, ...]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for name in names:
        module = layer._modules.get(name)
        if module is None:
            tensors.append(layer._parameters[name])
            continue
        tensors += weight_and_bias(module)
        if name == "bn":
            tensors += (module.running_mean, module.running_var)
    return tensors
