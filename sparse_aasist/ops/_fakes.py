"""Output shapes of the compiled ops, from which `torch.compile` and export trace through them."""

from __future__ import annotations

import torch
from torch import Tensor


def _topk_activation(x: Tensor, k: int, by: int) -> Tensor:
    return x.new_empty(x.shape)


def _topk_activation_compact(x: Tensor, k: int, by: int) -> tuple[Tensor, Tensor, Tensor]:
    compact = (*x.shape[:-1], k)
    return x.new_empty(x.shape), x.new_empty(compact), x.new_empty(compact, dtype=torch.int32)


def _topk_activation_backward(
    grad: Tensor | None, grad_values: Tensor | None, indices: Tensor, dim: int
) -> Tensor:
    like = grad_values if grad is None else grad
    return like.new_empty((*indices.shape[:-1], dim))


def _topk_linear(
    x: Tensor, k: int, by: int, weight: Tensor, bias: Tensor, scale: Tensor | None, dense: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    y, values, indices = _topk_activation_compact(x, k, by)
    return out, y if dense else x.new_empty(0), values, indices


def _topk_linear_backward(
    grad_out: Tensor,
    grad_y: Tensor | None,
    values: Tensor,
    indices: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    want_dx: bool,
    want_layer: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = weight.new_empty((*indices.shape[:-1], weight.shape[1]) if want_dx else 0)
    dweight = weight.new_empty(weight.shape if want_layer else 0)
    return dx, dweight, weight.new_empty(weight.shape[:1] if want_layer else 0)


def _graph_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    num_type1: int,
    temperature: float,
    master: Tensor | None,
    *_: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    real = x.dtype if x.dtype is torch.float64 else torch.float32
    batch, nodes, dim = x.shape
    masters = 0 if master is None else batch
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, nodes, nodes), dtype=real),
        x.new_empty((masters, 1, dim)),
        x.new_empty((masters, nodes), dtype=real),
    )


def _graph_attention_backward(
    grad_out: Tensor,
    grad_summary: Tensor,
    attention: Tensor,
    master_attention: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    vectors: Tensor,
    num_type1: int,
    temperature: float,
    master: Tensor | None,
    *of_master: Tensor | None,
) -> tuple[Tensor, ...]:
    gradients = [x.new_empty(t.shape) for t in (x, weight, bias, vectors, grad_summary)]
    shapes = [0 if t is None else t.shape for t in of_master]
    return (*gradients, *(x.new_empty(shape) for shape in shapes))


def _graph_pool(
    h: Tensor, weight: Tensor, bias: Tensor, kept: int, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, dim = h.shape
    return (
        h.new_empty((batch, kept, dim)),
        h.new_empty((batch, kept), dtype=torch.float64),
        h.new_empty((batch, kept), dtype=torch.int32),
    )


def _graph_pool_backward(
    grad_out: Tensor,
    scores: Tensor,
    indices: Tensor,
    h: Tensor,
    weight: Tensor,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), h.new_empty(weight.shape), h.new_empty(1)


def _graph_stack(
    features: Tensor,
    weights: list[Tensor],
    kept: list[int],
    temperatures: list[float],
    eps: list[float],
) -> Tensor:
    return features.new_empty((features.shape[0], 5 * weights[-2].shape[1]))


def _graph_stack_training(
    features: Tensor, weights: list[Tensor], *_: object
) -> tuple[Tensor, list[Tensor], Tensor]:
    # Of the types' layers, then of the branches'.
    hidden = [weights[1].shape[2]] * 2 + [weights[-2].shape[1]] * 4
    return (
        features.new_empty((features.shape[0], 5 * hidden[-1])),
        [features.new_empty(width) for width in 2 * hidden],
        features.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8),
    )


def _graph_stack_training_backward(
    grad: Tensor, features: Tensor, weights: list[Tensor], *_: object
) -> tuple[Tensor, list[Tensor]]:
    return features.new_empty(features.shape), [w.new_empty(w.shape) for w in weights]


def _front_end(waveform: Tensor, filters: Tensor, *_: Tensor | float) -> Tensor:
    count, _, taps = filters.shape
    steps = (waveform.shape[1] - taps + 1) // 3
    return waveform.new_empty((waveform.shape[0], 1, count // 3, steps))


def _channels_last(
    like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> Tensor:
    batch, channels, height, steps = shape
    return like.new_empty((batch, height, steps, channels), dtype=dtype).permute(0, 3, 1, 2)


def _residual_block(
    x: Tensor, conv1_weight: Tensor, conv1_bias: Tensor, *_: Tensor | float | None
) -> Tensor:
    batch, _, height, steps = x.shape
    return _channels_last(x, (batch, conv1_weight.shape[0], height, steps // 3))


def _residual_block_training(
    x: Tensor, conv1_weight: Tensor, conv1_bias: Tensor, *_: Tensor | float | None
) -> tuple[Tensor, ...]:
    batch, inputs, height, steps = x.shape
    outputs = conv1_weight.shape[0]
    out = (batch, outputs, height, steps // 3)
    # In bfloat16 a first block does not keep it.
    keeps_middle = x.dtype is not torch.bfloat16 or inputs > 1
    middle = (batch, outputs, height + 1, steps)
    statistics = (outputs, outputs, inputs, inputs)
    return (
        _channels_last(x, out),
        _channels_last(x, middle) if keeps_middle else x.new_empty(0),
        _channels_last(x, out, torch.uint8),
        *(x.new_empty(channels, dtype=torch.float32) for channels in statistics),
    )


def _residual_block_training_backward(
    grad_out: Tensor,
    middle: Tensor,
    chosen: Tensor,
    mean: Tensor,
    variance: Tensor,
    x: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    *after: Tensor | None,
) -> tuple[Tensor, ...]:
    weights = (conv1_weight, conv1_bias, norm_weight, norm_bias, *after)
    shapes = [0 if tensor is None else tensor.shape for tensor in weights]
    gradients = (x.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return _channels_last(x, tuple(x.shape)), *gradients


# One entry for each op that csrc/ registers, under its name.
FAKES = {
    "topk_activation": _topk_activation,
    "topk_activation_compact": _topk_activation_compact,
    "topk_activation_backward": _topk_activation_backward,
    "topk_linear": _topk_linear,
    "topk_linear_backward": _topk_linear_backward,
    "graph_attention": _graph_attention,
    "graph_attention_backward": _graph_attention_backward,
    "graph_pool": _graph_pool,
    "graph_pool_backward": _graph_pool_backward,
    "graph_stack": _graph_stack,
    "graph_stack_training": _graph_stack_training,
    "graph_stack_training_backward": _graph_stack_training_backward,
    "front_end": _front_end,
    "residual_block": _residual_block,
    "residual_block_training": _residual_block_training,
    "residual_block_training_backward": _residual_block_training_backward,
}
