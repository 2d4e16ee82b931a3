"""Graphs of AASIST as one op, without gradients or in training, instead of hundreds.

The ops read the weights of the modules in models/graph.py, which stay their reference: those run
on other devices and dtypes, under `torch.compile` in training, and under
`ops.backend("reference")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparse_aasist.models.fusion import only_computes, weight_and_bias
from sparse_aasist.models.graph import GraphAttention, GraphPool, HeteroGraphAttention
from sparse_aasist.models.running_statistics import move_statistics
from sparse_aasist.ops._backend import device_type, needs_reference, use_kernel
from sparse_aasist.ops.graph_attention import MAX_NODES, MAX_WIDTH

if TYPE_CHECKING:
    from sparse_aasist.models.aasist import AASIST

_NAMES = {False: "graph_stack", True: "graph_stack_training"}
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
        weights: of the layers, then of the pools, behind the position and both masters; in training
            without the statistics of the normalisations.
        kept: temporal and spectral nodes that the first pools keep, then the second ones.
        temperatures, eps: of each layer.
    """

    weights: list[Tensor]
    kept: list[int]
    temperatures: list[float]
    eps: list[float]


def graph_stack(model: AASIST, features: Tensor) -> Tensor | None:
    """Run graphs and readout of `model` on the output of its encoder.

    In training dropout draws in the order of the modules, on a CPU the very same, and the running
    statistics move as theirs would. The gradient is deterministic; it cannot itself be
    differentiated.

    Args:
        model: its graph modules are read, not called.
        features: (B, C, F, T), the encoder's output, in the dtype of the parameters.

    Returns:
        The readout (B, D), or None where the modules must run one by one: for a gradient outside of
        training, where they do more than their arithmetic (`models.fusion`), on other devices or
        dtypes, for sizes beyond those of `ops.graph_attention`; in training also under
        `torch.compile` and for fake tensors, where layers share a normalisation, and where PyTorch
        refuses to normalise a single node.
    """
    kind, training = device_type(features), model.training
    # What training saves has a size that only the kernels know. torch.compile generates better code
    # for the modules than for what it cannot look into.
    if training and (torch.compiler.is_compiling() or type(features) is not Tensor):
        return None
    if features.dtype not in _DTYPES.get(kind, ()) or not use_kernel(_NAMES[training], kind):
        return None
    modules = [model._modules[name] for name in _TYPES]
    if needs_reference() or list(map(type, modules)) != list(_TYPES.values()):
        return None
    if not all(only_computes(module, features.dtype, training=training) for module in modules):
        return None
    arguments = stack_arguments(model, features)
    weights, kept = arguments.weights, arguments.kept
    widths = (features.shape[1], model.master1.shape[2], weights[-2].shape[1])
    nodes = (*features.shape[2:], kept[0] + kept[1])
    if max(widths) > MAX_WIDTH or max(nodes) > MAX_NODES:
        return None
    if training:
        norms = {id(model._modules[name].bn) for name in _LAYERS}
        if len(norms) < len(_LAYERS) or features.shape[0] * min(nodes) < 2:
            return None
        noise = draw_noise(model, features, kept)
        readout, *statistics = _GraphStack.apply(features, noise, arguments[1:], *weights)
        move_all_statistics(model, statistics, features, kept)
        return readout
    if torch.is_grad_enabled() and any(t.requires_grad for t in (features, *weights)):
        return None
    return torch.ops.sparse_aasist.graph_stack.default(features, *arguments)


class _GraphStack(torch.autograd.Function):
    """The kernels of training with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, noise: list[Tensor], shape: tuple[Any, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        readout, statistics, saved = torch.ops.sparse_aasist.graph_stack_training.default(
            features, list(weights), noise, *shape
        )
        ctx.shape = shape
        ctx.counts = [len(weights), len(noise), len(statistics)]
        ctx.save_for_backward(features, saved, *weights, *noise, *statistics)
        ctx.mark_non_differentiable(*statistics)
        return readout, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        features, saved, *tensors = ctx.saved_tensors
        lists = []
        for count in ctx.counts:
            lists.append(tensors[:count])
            tensors = tensors[count:]
        dfeatures, gradients = torch.ops.sparse_aasist.graph_stack_training_backward.default(
            grad, features, *lists, saved, *ctx.shape
        )
        return dfeatures, None, None, *gradients


def stack_arguments(model: AASIST, features: Tensor) -> StackArguments:
    """Collect the arguments of the op; `nn.Module`'s own look-up would take longer than it."""
    layers = [model._modules[name] for name in _LAYERS]
    pools = [model._modules[name] for name in _POOLS]
    weights = [model.pos_S, model.master1, model.master2]
    for layer, names in zip(layers, _LAYERS.values(), strict=True):
        weights += _tensors(layer, names, statistics=not model.training)
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


def draw_noise(model: AASIST, features: Tensor, kept: list[int]) -> list[Tensor]:
    """Draw what dropout makes of ones, in the order in which the modules do.

    Returns:
        In the order of csrc/graph_stack_training.h: of the nodes of each layer (B, N, D), of the
        nodes that each pool scores, and of each branch: of temporal and spectral nodes, and of the
        master (B, 1, D).
    """
    batch, channels, bands, steps = features.shape
    gat, hidden = model.config.gat_dims
    first_t, first_s, kept_t, kept_s = kept
    widest = max(batch * max(bands, steps, first_t + first_s) * max(channels, gat, hidden), 1)
    ones = features.new_ones(widest)
    noise: dict[str, Tensor] = {}

    def draw(name: str, dropout: nn.Dropout, *shape: int) -> None:
        size = batch * shape[0] * shape[1]
        noise[name] = torch.dropout(ones[:size].view(batch, *shape), dropout.p, True)

    # The nodes of the first layers have their channels, not their widths, as rows in memory, in
    # which order dropout draws.
    for type_name, nodes in (("S", bands), ("T", steps)):
        layer, pool = f"GAT_layer_{type_name}", f"pool_{type_name}"
        draw(layer, model._modules[layer].input_drop, channels, nodes)
        noise[layer] = noise[layer].transpose(1, 2).contiguous()
        draw(pool, model._modules[pool].drop, nodes, gat)
    for branch in "12":
        first, second = (f"HtrgGAT_layer_ST{branch}{depth}" for depth in "12")
        draw(first, model._modules[first].input_drop, first_t + first_s, gat)
        for type_name, nodes in (("S", first_s), ("T", first_t)):
            pool = f"pool_h{type_name}{branch}"
            draw(pool, model._modules[pool].drop, nodes, hidden)
        draw(second, model._modules[second].input_drop, kept_t + kept_s, hidden)
    for part, nodes in (("T", kept_t), ("S", kept_s), ("M", 1)):
        for branch in "12":
            draw(part + branch, model.drop_way, nodes, hidden)
    ways = (part + branch for branch in "12" for part in "TSM")
    return [noise[name] for name in (*_LAYERS, *_POOLS, *ways)]


def move_all_statistics(
    model: AASIST, statistics: list[Tensor], features: Tensor, kept: list[int]
) -> None:
    """Move the running statistics of all layers: `statistics` are their means, then variances."""
    batch, _, bands, steps = features.shape
    first, second = sum(kept[:2]), sum(kept[2:])
    move_statistics(
        [model._modules[name].bn for name in _LAYERS],
        statistics[: len(_LAYERS)],
        statistics[len(_LAYERS) :],
        [batch * nodes for nodes in (steps, bands, first, second, first, second)],
    )


def _tensors(layer: nn.Module, names: tuple[str, ...], *, statistics: bool) -> list[Tensor]:
    tensors: list[Tensor] = []
    for name in names:
        module = layer._modules.get(name)
        if module is None:
            tensors.append(layer._parameters[name])
            continue
        tensors += weight_and_bias(module)
        if name == "bn" and statistics:
            tensors += (module.running_mean, module.running_var)
    return tensors
