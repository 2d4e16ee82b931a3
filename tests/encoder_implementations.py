"""Everything that computes the stages of the encoder, behind one interface."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from implementations import Functions, Sanitized, on_device, unwritten
from torch import Tensor

from sparse_aasist.ops import (
    Convolution,
    Normalisation,
    front_end,
    residual_block,
    residual_block_training,
)

Block = tuple[Tensor, Convolution, Normalisation, Convolution, Convolution | None]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Trained(NamedTuple):
    """A training pass: the result, statistics of the middle, then of x, and a gradient for each
    tensor of `tensors_of`."""

    out: Tensor
    statistics: list[Tensor]
    gradients: list[Tensor]


def tensors_of(block: Block) -> list[Tensor]:
    """Return x and the weights of a block, without its running statistics."""
    x, conv1, norm, conv2, shortcut = block
    return [x, *conv1, norm.weight, norm.bias, *conv2, *(shortcut or ())]


def training_pass(function: Any, block: Block, tensors: list[Tensor], grad: Tensor) -> Trained:
    """Call `function` with `tensors` in place of those of the block."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    x, w1, b1, weight, bias, w2, b2, *shortcut = inputs
    output = function(
        x,
        Convolution(w1, b1),
        weight,
        bias,
        block[2].eps,
        Convolution(w2, b2),
        Convolution(*shortcut) if shortcut else None,
    )
    assert not any(tensor.requires_grad for tensor in output[1:])
    gradients = torch.autograd.grad(output.out, inputs, grad)
    return Trained(output.out.detach(), list(output[1:]), list(gradients))


class EncoderFunctions(Functions):
    """The public functions, without gradients."""

    def front_end(self, waveform: Tensor, filters: Tensor, norm: Normalisation | None) -> Tensor:
        waveform, filters = (on_device(t, self.device) for t in (waveform, filters))
        if norm is not None:
            tensors = (on_device(t, self.device) for t in norm[:4])
            norm = Normalisation(*tensors, norm.eps)
        with self.settings(), torch.no_grad():
            return front_end(waveform, filters, norm).cpu()

    def residual_block(self, *block: Any) -> Tensor:
        with self.settings(), torch.no_grad():
            return residual_block(*block)

    def train(self, block: Block, grad: Tensor) -> Trained:
        with self.settings():
            return training_pass(residual_block_training, block, tensors_of(block), grad)


class EncoderSanitized(Sanitized):
    """The kernels themselves."""

    def front_end(self, waveform: Tensor, filters: Tensor, norm: Normalisation | None) -> Tensor:
        (batch, samples), (count, _, taps) = waveform.shape, filters.shape
        *norm, eps = norm or (*[torch.empty(0)] * 4, 0.0)
        scalars = (*self.where, batch, samples, count, taps, _pattern(eps))
        steps = (samples - taps + 1) // 3
        out = unwritten((batch, 1, count // 3, steps), torch.float32)
        arrays = (waveform.contiguous(), filters.contiguous(), *norm, out)
        return self.program.call("front_end", scalars, arrays)[-1]

    def residual_block(
        self,
        x: Tensor,
        conv1: Convolution,
        norm: Normalisation,
        conv2: Convolution,
        shortcut: Convolution | None,
    ) -> Tensor:
        batch, inputs, height, steps = x.shape
        outputs = conv1.weight.shape[0]
        scalars = (*self.where, batch, inputs, outputs, height, steps, _pattern(norm.eps))
        absent = torch.empty(0)
        out = unwritten((batch, height, steps // 3, outputs), torch.float32)
        arrays = (_rows(x), *conv1, *norm[:4], *conv2, *(shortcut or (absent, absent)), out)
        arrays = [array.contiguous() for array in arrays]
        return self.program.call("residual_block", scalars, arrays)[-1].permute(0, 3, 1, 2)

    def train(self, block: Block, grad: Tensor) -> Trained:
        x, conv1, norm, _, shortcut = block
        batch, inputs, height, steps = x.shape
        outputs = conv1.weight.shape[0]
        scalars = (*self.where, batch, inputs, outputs, height, steps, _pattern(norm.eps))
        tensors = tensors_of(block) + ([] if shortcut else [torch.empty(0)] * 2)
        tensors[0] = _rows(x)
        out = unwritten((batch, height, steps // 3, outputs), torch.float32)
        kept = (
            unwritten((batch, height + 1, steps, outputs), torch.float32),
            unwritten(tuple(out.shape), torch.uint8),
            *(unwritten((n,), torch.float32) for n in (outputs, outputs, inputs, inputs)),
        )
        gradients = [unwritten(tuple(tensor.shape), torch.float32) for tensor in tensors]
        arrays = (*tensors, out, *kept, _rows(grad), *gradients)
        results = self.program.call(
            "residual_block_training", scalars, [array.contiguous() for array in arrays]
        )
        out, _, _, *statistics = results[9:16]
        gradients = results[17:]
        gradients[0] = gradients[0].permute(0, 3, 1, 2)
        if shortcut is None:
            gradients = gradients[:-2]
        return Trained(out.permute(0, 3, 1, 2), statistics, gradients)


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, H, T) as the kernels have it: (B, H, T, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def _pattern(real: float) -> int:
    return struct.unpack("q", struct.pack("d", real))[0]


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare on the scale of the largest entry: those of a convolution share rounding errors."""
    assert got.shape == expected.shape and got.dtype is torch.float32
    if got.numel() == 0:
        return
    assert torch.equal(got.isnan(), expected.isnan())
    got, expected = got.double().nan_to_num(), expected.double().nan_to_num()
    error = (got - expected).abs().max() / expected.abs().max().clamp(min=0.1)
    assert error <= tolerance, f"{error:.1e} of the largest"
