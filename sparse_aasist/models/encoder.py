"""The residual convolutional encoder between the sinc front end and the graphs.

Source: clovaai/aasist, models/AASIST.py (Residual_block), after RawNet2 (arXiv 2011.01108).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_aasist.models.fusion import convolution, normalisation, only_computes
from sparse_aasist.models.running_statistics import move_statistics
from sparse_aasist.ops import Convolution, residual_block, residual_block_training
from sparse_aasist.ops.residual_block import POOL_STEP, kernel_dtype


class ResidualBlock(nn.Module):
    """Two (2, 3) convolutions, a shortcut and a (1, 3) max-pool; height is kept, width is / 3.

    Args:
        channels_in: input channels.
        channels_out: output channels; the shortcut is a (1, 3) convolution when they differ.
        first: the first block of the encoder has no leading batch normalisation.
    """

    def __init__(self, channels_in: int, channels_out: int, *, first: bool = False) -> None:
        super().__init__()
        # PARITY: the affine part of bn1 is never used (see forward); without requires_grad,
        # data-parallel training does not wait for its gradient.
        self.bn1 = None if first else nn.BatchNorm2d(channels_in).requires_grad_(False)
        self.conv1 = nn.Conv2d(channels_in, channels_out, (2, 3), padding=(1, 1))
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, (2, 3), padding=(0, 1))
        self.conv_downsample = (
            nn.Conv2d(channels_in, channels_out, (1, 3), padding=(0, 1))
            if channels_in != channels_out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H, W // 3)."""
        # PARITY: upstream normalises x with bn1 and then convolves the raw x. Only bn1's running
        # statistics ever move (tests/test_aasist_parity.py), so nothing else is computed.
        if self._is_fused(x):
            return self._train(x) if self.training else self._score(x)
        if self.bn1 is not None and self.bn1.training:
            variance, mean = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=0)
            move_statistics([self.bn1], [mean], [variance], [x.numel() // x.shape[1]])
        out = F.selu(self.bn2(self.conv1(x)), inplace=True)
        out = self.conv2(out)
        out += x if self.conv_downsample is None else self.conv_downsample(x)
        return F.max_pool2d(out, (1, POOL_STEP))

    def _is_fused(self, x: Tensor) -> bool:
        """Tell whether an op takes the place of the modules, which may do more than it does."""
        shortcut = self.conv_downsample
        return (
            only_computes(self, torch.float32, training=self.training)
            and (self.conv1.padding, self.conv2.padding) == ((1, 1), (0, 1))
            and (shortcut is None or shortcut.padding == (0, 1))
            and kernel_dtype(x, self.conv1.weight, shortcut is not None, training=self.training)
            is not None
            and (self.training or not _wants_gradient(x, self))
        )

    def _score(self, x: Tensor) -> Tensor:
        conv1, conv2, shortcut = self._convolutions()
        return residual_block(x, conv1, normalisation(self.bn2), conv2, shortcut)

    def _train(self, x: Tensor) -> Tensor:
        conv1, conv2, shortcut = self._convolutions()
        bn1, bn2 = self.bn1, self.bn2
        output = residual_block_training(x, conv1, bn2.weight, bn2.bias, bn2.eps, conv2, shortcut)
        batch, _, height, steps = x.shape
        moved = [(bn2, output.mean, output.variance, batch * (height + 1) * steps)]
        if bn1 is not None:
            moved.append((bn1, output.input_mean, output.input_variance, batch * height * steps))
        move_statistics(*zip(*moved, strict=True))
        return output.out

    def _convolutions(self) -> tuple[Convolution, Convolution, Convolution | None]:
        shortcut = self.conv_downsample
        return (
            convolution(self.conv1),
            convolution(self.conv2),
            None if shortcut is None else convolution(shortcut),
        )


def _wants_gradient(x: Tensor, module: nn.Module) -> bool:
    tensors = (x, *module.parameters())
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def normalise_one_channel(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Do in training what `bn` does for a single channel, statistics included.

    cuDNN has one block of threads for a channel: forward and backward take 20 ms for 24 clips of 4
    seconds on an H100, sums by all of them 0.4.

    Args:
        x: (B, 1, F, T), two values or more.
    """
    variance, mean = torch.var_mean(x, correction=0)
    move_statistics([bn], [mean.detach().view(1)], [variance.detach().view(1)], [x.numel()])
    scale = bn.weight * torch.rsqrt(variance + bn.eps)
    return x * scale + (bn.bias - mean * scale)


def build_encoder(stages: tuple[tuple[int, int], ...]) -> nn.Sequential:
    """Stack the residual blocks of `stages` [in, out]; the last stage is applied three times.

    Each block sits in a Sequential of its own, because published state dicts name it so.
    """
    widths = [*stages, stages[-1], stages[-1]]
    blocks = [ResidualBlock(a, b, first=index == 0) for index, (a, b) in enumerate(widths)]
    return nn.Sequential(*(nn.Sequential(block) for block in blocks))
