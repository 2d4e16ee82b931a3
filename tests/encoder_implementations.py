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

CONV1_BIAS = 2
"""Of the gradients of `tensors_of`: the statistics take it away, and what is left is rounding."""

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


def problem(
    batch: int, inputs: int, outputs: int, height: int, steps: int, identity: bool = False
) -> Block:
    generator = torch.Generator().manual_seed(steps)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def convolution(channels: int, high: int) -> Convolution:
        scale = (3 * high * channels) ** -0.5
        return Convolution(randn(outputs, channels, high, 3, scale=scale), randn(outputs))

    norm = Normalisation(
        *(randn(outputs) for _ in range(3)), torch.rand(outputs, generator=generator) + 0.5, 1e-5
    )
    return (
        randn(batch, inputs, height, steps).to(memory_format=torch.channels_last),
        convolution(inputs, 2),
        norm,
        convolution(outputs, 2),
        None if identity else convolution(inputs, 1),
    )


def doubled(block: Block) -> Block:
    x, conv1, norm, conv2, shortcut = block
    return (
        x.double(),
        Convolution(*(t.double() for t in conv1)),
        Normalisation(*(t.double() for t in norm[:4]), norm.eps),
        Convolution(*(t.double() for t in conv2)),
        None if shortcut is None else Convolution(*(t.double() for t in shortcut)),
    )


def gradient_for(block: Block) -> Tensor:
    """Return a gradient of the result of a block, in the dtype of x."""
    x = block[0]
    batch, _, height, steps = x.shape
    shape = (batch, block[1].weight.shape[0], height, steps // 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(steps + 1)).to(x.dtype)


class Trained(NamedTuple):
    """A training pass with its gradient.

    Attributes:
        out: (B, O, H, T // 3).
        statistics: mean and variance of the middle, then of x.
        gradients: for each tensor of `tensors_of`.
        chosen: as out, which of three steps; None from functions, which do not tell.
    """

    out: Tensor
    statistics: list[Tensor]
    gradients: list[Tensor]
    chosen: Tensor | None = None


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
    """The kernels themselves; device code and tiles have the blocks in bfloat16."""

    def front_end(self, waveform: Tensor, filters: Tensor, norm: Normalisation | None) -> Tensor:
        (batch, samples), (count, _, taps) = waveform.shape, filters.shape
        *norm, eps = norm or (*[torch.empty(0)] * 4, 0.0)
        scalars = (*self.where, batch, samples, count, taps, _pattern(eps))
        steps = (samples - taps + 1) // 3
        out = unwritten((batch, 1, count // 3, steps), torch.float32)
        arrays = (waveform.contiguous(), filters.contiguous(), *norm, out)
        return self.program.call("front_end", scalars, arrays)[-1]

    def residual_block(self, *block: Any) -> Tensor:
        x, conv1, norm, conv2, shortcut = block
        absent = torch.empty(0)
        out = _unwritten_rows(x, conv1.weight.shape[0], x.dtype)
        arrays = (_rows(x), *conv1, *norm[:4], *conv2, *(shortcut or (absent, absent)), out)
        return _image(
            self.program.call(_kernel("residual_block", x), self._scalars(*block), arrays)[-1]
        )

    def train(self, block: Block, grad: Tensor) -> Trained:
        x, shortcut = block[0], block[4]
        (batch, inputs, height, steps), outputs = x.shape, block[1].weight.shape[0]
        tensors = tensors_of(block) + ([] if shortcut else [torch.empty(0)] * 2)
        tensors[0] = _rows(x)
        # In bfloat16 the middle of one channel is not kept.
        is_kept = inputs > 1 or x.dtype is torch.float32
        middle = (batch, height + 1, steps, outputs) if is_kept else (0,)
        kept = (
            _unwritten_rows(x, outputs, x.dtype),
            unwritten(middle, x.dtype),
            _unwritten_rows(x, outputs, torch.uint8),
            *(unwritten((n,), torch.float32) for n in (outputs, outputs, inputs, inputs)),
        )
        gradients = [unwritten(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        arrays = (*tensors, *kept, _rows(grad), *gradients)
        name = _kernel("residual_block_training", x)
        results = self.program.call(name, self._scalars(*block), arrays)
        out, _, chosen, *statistics = results[9:16]
        dx, *gradients = results[17 : 17 + len(tensors_of(block))]
        return Trained(_image(out), statistics, [_image(dx), *gradients], _image(chosen))

    def _scalars(self, x: Tensor, conv1: Convolution, norm: Normalisation, *_: Any) -> list[int]:
        batch, inputs, height, steps = x.shape
        outputs = conv1.weight.shape[0]
        return [*self.where, batch, inputs, outputs, height, steps, _pattern(norm.eps)]


def _kernel(op: str, x: Tensor) -> str:
    return f"{op}_bfloat16" if x.dtype is torch.bfloat16 else op


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, H, T) as the kernels have it: (B, H, T, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def _image(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2)


def _unwritten_rows(x: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    batch, _, height, steps = x.shape
    return unwritten((batch, height, steps // 3, outputs), dtype)


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


def assert_equal(got: Trained, expected: Trained) -> None:
    """Compare bit by bit."""
    assert torch.equal(got.out, expected.out)
    assert got.chosen is expected.chosen is None or torch.equal(got.chosen, expected.chosen)
    assert all(map(torch.equal, got.statistics, expected.statistics))
    assert all(map(torch.equal, got.gradients, expected.gradients))
