"""What one writes with PyTorch instead of our ops: the published code of AASIST, op by op.

Source: clovaai/aasist, models/AASIST.py. The references of our ops would not do: they check their
arguments and break ties by bit patterns, some sum in float64, and `torch.compile` cannot trace
`ops.backend`, which chooses them. All of this it traces as one graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_aasist.models import aasist, encoder, front_end, graph, head
from sparse_aasist.ops import Master
from sparse_aasist.ops.front_end import POOL


def filter_waveform(waveform: Tensor, filters: Tensor) -> Tensor:
    """Do what CONV and the pool behind it do; in float32 under autocast, as ours."""
    with torch.autocast(waveform.device.type, enabled=False):
        bands = F.conv1d(waveform.unsqueeze(1), filters).abs()
        return F.max_pool2d(bands.unsqueeze(1), POOL)


def attention(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Do what GraphAttentionLayer does."""
    products = x.unsqueeze(2) * x.unsqueeze(1)
    scores = torch.tanh(F.linear(products, weight, bias)) @ v / temperature
    return scores.softmax(dim=-1) @ x


def hetero_attention(
    x: Tensor,
    num_type1: int,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    temperature: float,
    master: Master,
) -> tuple[Tensor, Tensor]:
    """Do what HtrgGraphAttentionLayer does."""
    hidden = torch.tanh(F.linear(x.unsqueeze(2) * x.unsqueeze(1), weight, bias))
    scores = torch.zeros_like(hidden[..., 0])
    one, two = slice(None, num_type1), slice(num_type1, None)
    scores[:, one, one] = hidden[:, one, one] @ vectors[0]
    scores[:, two, two] = hidden[:, two, two] @ vectors[1]
    scores[:, one, two] = hidden[:, one, two] @ vectors[2]
    scores[:, two, one] = hidden[:, two, one] @ vectors[2]
    of_master = torch.tanh(F.linear(x * master.node, master.weight, master.bias)) @ master.v
    summary = (of_master / temperature).softmax(dim=1).unsqueeze(1) @ x
    return (scores / temperature).softmax(dim=-1) @ x, summary


def pool(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float, scale: Tensor | None = None
) -> Tensor:
    """Do what GraphPool does."""
    scores = torch.sigmoid(F.linear(h if scale is None else h * scale, weight, bias))
    order = torch.topk(scores, max(int(h.shape[1] * ratio), 1), dim=1).indices
    return (h * scores).gather(1, order.expand(-1, -1, h.shape[2]))


def topk_scatter(x: Tensor, k: int, sorted: bool = False) -> Tensor:
    """Keep what torch.topk finds; which of several equal entries stay is undefined."""
    values, indices = torch.topk(x, k, dim=-1, sorted=sorted)
    return torch.zeros_like(x).scatter(-1, indices, values)


def classify(x: Tensor, k: int, weight: Tensor, bias: Tensor, **_: object) -> tuple[Tensor, Tensor]:
    """Keep the k highest, then classify; return the result first, as `topk_linear` does."""
    activation = topk_scatter(x, k)
    return F.linear(activation, weight, bias), activation


def _never(*_: object, **__: object) -> bool:
    return False


def _nothing(*_: object) -> None:
    return None


# Fixed functions: torch.compile compiles again where a name leads to another one.
_GRAPHS = (
    (aasist, "graph_stack", _nothing),
    (graph, "graph_attention", attention),
    (graph, "hetero_graph_attention", hetero_attention),
    (graph, "graph_pool", pool),
    (head, "topk_linear", classify),
)
_WHOLE = (
    *_GRAPHS,
    (aasist, "only_computes", _never),
    (encoder, "only_computes", _never),
    (front_end, "front_end", filter_waveform),
)


@contextmanager
def instead_of_ours(*, graphs_only: bool = False) -> Iterator[pytest.MonkeyPatch]:
    """Make models run module by module on the functions above, until the context is left."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, function in _GRAPHS if graphs_only else _WHOLE:
            patch.setattr(module, name, function)
        yield patch
