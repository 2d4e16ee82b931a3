"""The residual block of a GPU, in bfloat16: what computes it, and a reference that rounds alike."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from encoder_implementations import Block, tensors_of
from implementations import Functions, Sanitized, on_device, unwritten
from torch import Tensor

from sparse_aasist._extension import load

CONV1_BIAS = 2
"""Of the gradients: the statistics take it away."""


class TrainedBlock(NamedTuple):
    """A training pass with its gradient.

    Attributes:
        out, chosen: (B, O, H, T // 3).
        statistics: mean and variance of the middle, then of x.
        gradients: for each tensor of `tensors_of`.
    """

    out: Tensor
    chosen: Tensor
    statistics: list[Tensor]
    gradients: list[Tensor]


class BlockOps(Functions):
    """The ops of a GPU. x and the gradient of the result are bfloat16."""

    def residual_block(self, block: Block) -> Tensor:
        x, conv1, norm, conv2, shortcut = block
        op, shortcut = self._op("residual_block"), shortcut or (None, None)
        return op(*self._moved(x, *conv1, *norm, *conv2, *shortcut)).cpu()

    def train(self, block: Block, grad: Tensor) -> TrainedBlock:
        x, conv1, norm, conv2, shortcut = block
        weights = (*conv1, norm.weight, norm.bias, norm.eps, *conv2, *(shortcut or (None, None)))
        grad, x, *weights = self._moved(grad, x, *weights)
        out, middle, chosen, *statistics = self._op("residual_block_training")(x, *weights)
        gradients = self._op("residual_block_training_backward")(
            grad, middle, chosen, *statistics[:2], x, *weights
        )
        return TrainedBlock(
            out.cpu(),
            chosen.cpu(),
            [tensor.cpu() for tensor in statistics],
            [tensor.cpu() for tensor in gradients[: len(tensors_of(block))]],
        )

    def _op(self, name: str) -> Any:
        load()
        return getattr(torch.ops.sparse_aasist, name).default

    def _moved(self, *arguments: Any) -> list[Any]:
        return [on_device(a, self.device) if isinstance(a, Tensor) else a for a in arguments]


class BlockSanitized(Sanitized):
    """The device code itself."""

    def residual_block(self, block: Block) -> Tensor:
        x, conv1, norm, conv2, shortcut = block
        out = _like_rows(x, conv1.weight.shape[0], torch.bfloat16)
        absent = torch.empty(0)
        arrays = (_rows(x), *conv1, *norm[:4], *conv2, *(shortcut or (absent, absent)), out)
        results = self.program.call("residual_block", self._scalars(block), arrays)
        return results[-1].permute(0, 3, 1, 2)

    def train(self, block: Block, grad: Tensor) -> TrainedBlock:
        x, shortcut = block[0], block[4]
        (batch, inputs, height, steps), outputs = x.shape, block[1].weight.shape[0]
        tensors = tensors_of(block) + ([] if shortcut else [torch.empty(0)] * 2)
        tensors[0] = _rows(x)
        middle = (0,) if inputs == 1 else (batch, height + 1, steps, outputs)
        kept = (
            _like_rows(x, outputs, torch.bfloat16),
            unwritten(middle, torch.bfloat16),
            _like_rows(x, outputs, torch.uint8),
            *(unwritten((n,), torch.float32) for n in (outputs, outputs, inputs, inputs)),
        )
        gradients = [unwritten(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        arrays = (*tensors, *kept, _rows(grad), *gradients)
        results = self.program.call("residual_block_training", self._scalars(block), arrays)
        out, _, chosen, *statistics = results[9:16]
        gradients = results[17 : 17 + len(tensors_of(block))]
        gradients[0] = gradients[0].permute(0, 3, 1, 2)
        images = (image.permute(0, 3, 1, 2) for image in (out, chosen))
        return TrainedBlock(*images, statistics, gradients)

    def _scalars(self, block: Block) -> tuple[int, ...]:
        x, conv1, norm, *_ = block
        batch, inputs, height, steps = x.shape
        pattern = struct.unpack("q", struct.pack("d", norm.eps))[0]
        return (*self.where, batch, inputs, conv1.weight.shape[0], height, steps, pattern)


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, H, T) as the kernels have it: (B, H, T, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def _like_rows(x: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    batch, _, height, steps = x.shape
    return unwritten((batch, height, steps // 3, outputs), dtype)


class _Rounded(torch.autograd.Function):
    """Rounds to bfloat16 what passes, and the gradient on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: bool, gradient: bool) -> Tensor:
        ctx.gradient = gradient
        return _round(x) if value else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _round(grad) if ctx.gradient else grad, None, None


def _round(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def expected_block(block: Block) -> Tensor:
    """Compute `residual_block` in float64 with the roundings of the GPU's kernel."""
    norm, tensors = block[2], [tensor.double() for tensor in tensors_of(block)]
    middle = _middle(*tensors[:3])
    scale = norm.weight.double() / (norm.variance.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.mean.double() * scale
    normal = middle * scale[:, None, None] + shift[:, None, None]
    return _round(_by_three(_before_pool(normal, tensors)).amax(-1))


def expected_training(block: Block, grad: Tensor, chosen: Tensor) -> tuple[Tensor, TrainedBlock]:
    """Compute `residual_block_training` and its gradient likewise.

    Args:
        chosen: which of three steps the kernel took: of nearly equal ones rounding decides, and
            all that has passed one of them then differs.

    Returns:
        (what is pooled (B, O, H, T // 3, 3), the pass with these choices)
    """
    tensors = [tensor.double().requires_grad_() for tensor in tensors_of(block)]
    x, _, _, weight, bias, *_ = tensors
    middle = _middle(*tensors[:3])
    statistics = []
    for tensor in (middle, x):
        variance, mean = torch.var_mean(tensor.detach(), dim=(0, 2, 3), correction=0)
        statistics += [mean, variance]
    middle = _Rounded.apply(middle, False, True)
    normal = F.batch_norm(middle, None, None, weight, bias, training=True, eps=block[2].eps)
    normal = _Rounded.apply(normal, False, True)
    pooled = _by_three(_before_pool(normal, tensors))
    out = pooled.gather(-1, chosen.long().unsqueeze(-1)).squeeze(-1)
    gradients = torch.autograd.grad(out, tensors, grad.double())
    gradients = [_round(gradients[0]), *gradients[1:]]
    passed = TrainedBlock(_round(out.detach()), chosen, statistics, gradients)
    return pooled.detach(), passed


def _middle(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    lowered = _Rounded.apply(weight, True, False)
    if x.shape[1] > 1:
        return _Rounded.apply(F.conv2d(x, lowered, bias, padding=(1, 1)), True, False)
    # One input channel: float32 throughout, but for the weights on the way back to x.
    back = F.conv2d(x, lowered.detach(), padding=(1, 1))
    return F.conv2d(x.detach(), weight, bias, padding=(1, 1)) + back - back.detach()


def _before_pool(normal: Tensor, tensors: list[Tensor]) -> Tensor:
    x, *_, w2, b2 = tensors[:7]
    active = _Rounded.apply(F.selu(normal), True, False)
    y = F.conv2d(active, _Rounded.apply(w2, True, False), b2, padding=(0, 1))
    if len(tensors) == 7:
        return y + x
    weight, bias = tensors[7:]
    return y + F.conv2d(x, _Rounded.apply(weight, True, False), bias, padding=(0, 1))


def _by_three(y: Tensor) -> Tensor:
    return y[..., : y.shape[3] // 3 * 3].unflatten(3, (-1, 3))
