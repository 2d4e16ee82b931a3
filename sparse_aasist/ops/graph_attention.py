"""Graph attention with a score of the product of two nodes, homogeneous and heterogeneous.

No tensor of all pairs and their widths is ever made: what is kept is the attention, (B, N, N).
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_aasist.ops._arguments import matched
from sparse_aasist.ops._backend import (
    device_type,
    needs_reference,
    use_kernel,
    without_autocast,
)

MAX_NODES = 1024
MAX_WIDTH = 128
"""Larger graphs, and wider nodes or hidden layers, run as the reference."""

_NAME = "graph_attention"


class HeteroAttentionOutput(NamedTuple):
    """What `hetero_graph_attention` returns.

    Attributes:
        nodes: (B, N, D), dtype of x: what each node reads.
        master: (B, 1, D), dtype of x: what the master reads; None without a master.
    """

    nodes: Tensor
    master: Tensor | None


class Master(NamedTuple):
    """A node outside of the graph that reads all of its nodes and is read by none.

    Attributes:
        node: (B, 1, D), or (1, 1, D) for all graphs of the batch.
        weight, bias: (O, D) and (O), the hidden layer of its scores.
        v: (O), the vector of its scores.
    """

    node: Tensor
    weight: Tensor
    bias: Tensor
    v: Tensor


def graph_attention(
    x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, temperature: float
) -> Tensor:
    """Let every node read all nodes of its graph.

    s_ij = v . tanh(W (x_i * x_j) + b) / temperature; p_i = softmax_j(s_i); out_i = sum_j p_ij x_j.

    float32 and float64 are computed in their own precision, float16 and bfloat16 in float32. The
    gradient computes the hidden layer again; it is deterministic, and can be taken once. Autocast
    does not change x: the other tensors are cast to its dtype. `torch.compile` and `torch.export`
    trace through it; under `torch.func` transforms and forward-mode AD, and for more than 1,024
    nodes or widths above 128, it runs as plain PyTorch.

    Args:
        x: (B, N, D), float32, float64, float16 or bfloat16: N >= 1 nodes of width D >= 1.
        weight, bias: W (O, D) and b (O), dtype of x.
        v: (O), dtype of x.
        temperature: above 0.

    Returns:
        (B, N, D), dtype of x.

    Raises:
        TypeError: a dtype is another one, or temperature is not a number.
        ValueError: a shape or device does not fit x, or temperature is not above 0.

    Source: arXiv 2110.01200, eq. 2-5; clovaai/aasist, models/AASIST.py (GraphAttentionLayer).
    """
    x, score, _ = _check(x, weight, bias, v, None, temperature, None)
    return _attend(x, x.shape[1], score, temperature, None).nodes


def hetero_graph_attention(
    x: Tensor,
    num_type1: int,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    temperature: float,
    master: Master | None = None,
) -> HeteroAttentionOutput:
    """Let every node of two joined graphs, and a master, read all nodes.

    As `graph_attention`, with one vector for each pair of types. The master m reads with
    p = softmax_j(v_m . tanh(W_m (m * x_j) + b_m) / temperature).

    Args:
        x: (B, N, D), float32, float64, float16 or bfloat16: the nodes of type 1, then of type 2.
        num_type1: how many are of type 1, 0..N.
        weight, bias: (O, D) and (O), dtype of x.
        vectors: (3, O), dtype of x: for pairs inside type 1, inside type 2, and across.
        temperature: above 0.
        master: the master and its weights, of the same dtype and O.

    Raises: as `graph_attention`.

    Source: arXiv 2110.01200, section 3.2; clovaai/aasist, models/AASIST.py
    (HtrgGraphAttentionLayer).
    """
    x, score, master = _check(x, weight, bias, vectors, num_type1, temperature, master)
    return _attend(x, num_type1, score, temperature, master)


def graph_attention_reference(
    x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, temperature: float
) -> Tensor:
    """Compute `graph_attention` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `graph_attention`.
    """
    x, score, _ = _check(x, weight, bias, v, None, temperature, None)
    return _reference(x, x.shape[1], score, temperature, None).nodes


def hetero_graph_attention_reference(
    x: Tensor,
    num_type1: int,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    temperature: float,
    master: Master | None = None,
) -> HeteroAttentionOutput:
    """Compute `hetero_graph_attention` with PyTorch's own ops, on any device.

    Args, Returns, Raises: as `hetero_graph_attention`.
    """
    x, score, master = _check(x, weight, bias, vectors, num_type1, temperature, master)
    return _reference(x, num_type1, score, temperature, master)


class _Score(NamedTuple):
    weight: Tensor  # (O, D)
    bias: Tensor  # (O)
    vectors: Tensor  # (1 or 3, O)


def _attend(
    x: Tensor, num_type1: int, score: _Score, temperature: float, master: Master | None
) -> HeteroAttentionOutput:
    small = x.shape[1] <= MAX_NODES and max(score.weight.shape) <= MAX_WIDTH
    if not small or not use_kernel(_NAME, device_type(x)) or needs_reference():
        return _reference(x, num_type1, score, temperature, master)
    inputs = (x, *score, num_type1, temperature, *_master_inputs(master))
    tensors = (t for t in inputs if isinstance(t, Tensor))
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        nodes, summary = _GraphAttention.apply(*inputs)
    else:
        nodes, _, summary, _ = torch.ops.sparse_aasist.graph_attention.default(*inputs)
    return HeteroAttentionOutput(nodes, None if master is None else summary)


def _master_inputs(master: Master | None) -> tuple[Tensor | None, ...]:
    if master is None:
        return None, None, None, None
    return master.node, master.weight, master.bias, master.v.unsqueeze(0)


class _GraphAttention(torch.autograd.Function):
    """The kernels with their gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        nodes, attention, summary, master_attention = (
            torch.ops.sparse_aasist.graph_attention.default(*inputs)
        )
        x, weight, bias, vectors, ctx.num_type1, ctx.temperature, *master = inputs
        ctx.save_for_backward(attention, master_attention, x, weight, bias, vectors, *master)
        return nodes, summary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_summary: Tensor) -> tuple[Tensor | None, ...]:
        attention, master_attention, x, weight, bias, vectors, *master = ctx.saved_tensors
        dx, dweight, dbias, dvectors, *dmaster = (
            torch.ops.sparse_aasist.graph_attention_backward.default(
                *(grad, grad_summary, attention, master_attention, x, weight, bias, vectors),
                *(ctx.num_type1, ctx.temperature, *master),
            )
        )
        if master[0] is None:
            dmaster = [None] * 4
        elif master[0].shape[0] != x.shape[0]:
            # Not an assignment to dmaster[0]: for torch.compile of 2.11 it is a tuple.
            dmaster = [dmaster[0].sum(0, keepdim=True), *dmaster[1:]]
        return dx, dweight, dbias, dvectors, None, None, *dmaster


def _reference(
    x: Tensor, num_type1: int, score: _Score, temperature: float, master: Master | None
) -> HeteroAttentionOutput:
    dtype = x.dtype
    real = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    x = x.to(real)
    weight, bias, vectors = (t.to(real) for t in score)
    with without_autocast(x):
        products = x.unsqueeze(2) * x.unsqueeze(1)
        hidden = torch.tanh(torch.nn.functional.linear(products, weight, bias))
        scores = _scores_by_type(hidden @ vectors.t(), num_type1) / temperature
        nodes = (scores.softmax(dim=-1) @ x).to(dtype)
        if master is None:
            return HeteroAttentionOutput(nodes, None)
        node, weight, bias, v = (t.to(real) for t in master)
        hidden = torch.tanh(torch.nn.functional.linear(x * node, weight, bias))
        attention = ((hidden @ v) / temperature).softmax(dim=1)
        return HeteroAttentionOutput(nodes, (attention.unsqueeze(1) @ x).to(dtype))


def _scores_by_type(scores: Tensor, num_type1: int) -> Tensor:
    """Choose the score of each pair by its types: (B, N, N, 1 or 3) -> (B, N, N)."""
    if scores.shape[-1] == 1:
        return scores.squeeze(-1)
    within1, within2, across = scores.unbind(dim=-1)
    is_type1 = torch.arange(scores.shape[1], device=scores.device) < num_type1
    # Not `==`, which torch.compile cannot generate for two booleans on a CPU.
    differ = is_type1[:, None] ^ is_type1[None, :]
    return torch.where(differ, across, torch.where(is_type1[:, None], within1, within2))


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    num_type1: int | None,
    temperature: float,
    master: Master | None,
) -> tuple[Tensor, _Score, Master | None]:
    """Check the arguments; return the tensors, in the dtype of x under autocast.

    num_type1 is None where nodes have no types; `vectors` is then v.
    """
    of_pairs = "v" if num_type1 is None else "vectors"
    tensors = {"x": x, "weight": weight, "bias": bias, of_pairs: vectors}
    if master is not None:
        if not isinstance(master, Master):
            raise TypeError(f"master must be a Master, got {type(master).__name__}")
        tensors |= {f"master.{name}": tensor for name, tensor in master._asdict().items()}
    named = matched(tensors)
    if x.dim() != 3 or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be (batch, nodes, dim) with nodes and a width, got {tuple(x.shape)}"
        )
    batch, nodes, dim = x.shape
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight must be (hidden, {dim}), got {tuple(weight.shape)}")
    hidden = weight.shape[0]
    if num_type1 is not None:
        if not isinstance(num_type1, (int, torch.SymInt)) or isinstance(num_type1, bool):
            raise TypeError(f"num_type1 must be an int, got {num_type1!r}")
        if not 0 <= num_type1 <= nodes:
            raise ValueError(f"num_type1 must be in 0..{nodes} (nodes of x), got {num_type1}")
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool):
        raise TypeError(f"temperature must be a number, got {temperature!r}")
    if not 0 < temperature <= sys.float_info.max:
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    shapes = {"weight": (hidden, dim), "bias": (hidden,)}
    shapes[of_pairs] = (hidden,) if num_type1 is None else (3, hidden)
    if master is not None:
        masters = batch if master.node.shape[:1] == (batch,) else 1
        shapes |= {"master.node": (masters, 1, dim), "master.weight": (hidden, dim)}
        shapes |= {"master.bias": (hidden,), "master.v": (hidden,)}
    for name, shape in shapes.items():
        if named[name].shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(named[name].shape)}")
    _, weight, bias, vectors, *of_master = named.values()
    if num_type1 is None:
        vectors = vectors.unsqueeze(0)
    return x, _Score(weight, bias, vectors), Master(*of_master) if master else None
