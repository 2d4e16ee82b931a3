"""Everything that computes the stages of the encoder, behind one interface."""

from __future__ import annotations

import struct

import torch
from implementations import Functions, Sanitized, unwritten
from torch import Tensor

from sparse_aasist.ops import Convolution, Normalisation, front_end, residual_block

Block = tuple[Tensor, Convolution, Normalisation, Convolution, Convolution | None]


class EncoderFunctions(Functions):
    """The public functions, without gradients."""

    def front_end(self, waveform: Tensor, filters: Tensor, norm: Normalisation) -> Tensor:
        with self.settings(), torch.no_grad():
            return front_end(waveform, filters, norm)

    def residual_block(self, *block: Block) -> Tensor:
        with self.settings(), torch.no_grad():
            return residual_block(*block)


class EncoderSanitized(Sanitized):
    """The kernels themselves."""

    def front_end(self, waveform: Tensor, filters: Tensor, norm: Normalisation) -> Tensor:
        (batch, samples), (count, _, taps) = waveform.shape, filters.shape
        scalars = (*self.where, batch, samples, count, taps, _pattern(norm.eps))
        steps = (samples - taps + 1) // 3
        out = unwritten((batch, 1, count // 3, steps), torch.float32)
        arrays = (waveform.contiguous(), filters.contiguous(), *norm[:4], out)
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
        x = x.permute(0, 2, 3, 1).contiguous()
        arrays = (x, *conv1, *norm[:4], *conv2, *(shortcut or (absent, absent)), out)
        arrays = [array.contiguous() for array in arrays]
        return self.program.call("residual_block", scalars, arrays)[-1].permute(0, 3, 1, 2)


def _pattern(real: float) -> int:
    return struct.unpack("q", struct.pack("d", real))[0]


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare on the scale of the largest entry: those of a convolution share rounding errors."""
    assert got.shape == expected.shape and got.dtype is torch.float32
    assert torch.equal(got.isnan(), expected.isnan())
    got, expected = got.double().nan_to_num(), expected.double().nan_to_num()
    if expected.numel() > 0:
        error = (got - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        assert error <= tolerance, f"{error:.1e} of the largest"
