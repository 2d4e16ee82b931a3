"""The residual block in bfloat16: what computes it, and a reference that rounds alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from encoder_implementations import (
    CONV1_BIAS,
    Block,
    Trained,
    gradient_for,
    problem,
    tensors_of,
)
from implementations import Functions, on_device
from torch import Tensor, nn

from sparse_aasist import AASIST
from sparse_aasist._extension import load

GRADIENT = 4e-2
"""Of the norm, between gradients with other roundings: SELU's slope jumps at 0, and few values of
the middle fall to its other side."""
FEATURES = 1.2e-2
"""Of the norm, of the encoder's features of `calibrated_model`. Emulated on a CPU the error is 6e-3
to 8e-3, of PyTorch under autocast 8e-3 to 9e-3."""


class BlockOps(Functions):
    """The ops. x and the gradient of the result are bfloat16."""

    def residual_block(self, *block: Any) -> Tensor:
        x, conv1, norm, conv2, shortcut = block
        arguments = self._moved(x, *conv1, *norm, *conv2, *(shortcut or (None, None)))
        with self.settings():
            return self._op("residual_block")(*arguments).cpu()

    def train(self, block: Block, grad: Tensor) -> Trained:
        x, conv1, norm, conv2, shortcut = block
        weights = (*conv1, norm.weight, norm.bias, norm.eps, *conv2, *(shortcut or (None, None)))
        grad, x, *weights = self._moved(grad, x, *weights)
        with self.settings():
            out, middle, chosen, *statistics = self._op("residual_block_training")(x, *weights)
            gradients = self._op("residual_block_training_backward")(
                grad, middle, chosen, *statistics[:2], x, *weights
            )
        return Trained(
            out.cpu(),
            [tensor.cpu() for tensor in statistics],
            [tensor.cpu() for tensor in gradients[: len(tensors_of(block))]],
            chosen.cpu(),
        )

    def _op(self, name: str) -> Any:
        load()
        return getattr(torch.ops.sparse_aasist, name).default

    def _moved(self, *arguments: Any) -> list[Any]:
        return [on_device(a, self.device) if isinstance(a, Tensor) else a for a in arguments]


def block_of(size: tuple[int, ...]) -> Block:
    """Return `problem`, of batch, inputs, outputs, height and steps, with x in bfloat16."""
    batch, inputs, outputs, height, steps = size
    x, *rest = problem(batch, inputs, outputs, height, steps, inputs == outputs)
    return (x.bfloat16(), *rest)


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
    """Compute `residual_block` in float64 with the roundings of the kernels."""
    norm, tensors = block[2], [tensor.double() for tensor in tensors_of(block)]
    middle = _middle(*tensors[:3])
    scale = norm.weight.double() / (norm.variance.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.mean.double() * scale
    normal = middle * scale[:, None, None] + shift[:, None, None]
    return _round(_by_three(_before_pool(normal, tensors)).amax(-1))


def expected_training(block: Block, grad: Tensor, chosen: Tensor) -> tuple[Tensor, Trained]:
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
    passed = Trained(_round(out.detach()), statistics, gradients, chosen)
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


def clear_gradient(block: Block) -> tuple[Tensor, Tensor]:
    """Return a gradient that is 0 where rounding may choose another step, and which is chosen.

    PyTorch rounds before its pool, ours behind it.
    """
    grad = gradient_for(block)
    pooled, _ = expected_training(block, grad, torch.zeros_like(grad, dtype=torch.uint8))
    top = pooled.topk(2, dim=-1).values
    return grad * (top[..., 0] - top[..., 1] > 0.1), pooled.argmax(-1)


def error_of(got: Tensor, expected: Tensor) -> float:
    """Return the error of a result, of its norm."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return ((got - expected).norm() / expected.norm()).item()


def assert_gradients_near(got: list[Tensor], expected: list[Tensor]) -> None:
    """Compare the gradients of a block, those of two roundings."""
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert index == CONV1_BIAS or error_of(a, b) < GRADIENT, f"gradient {index}"


def waveforms() -> Tensor:
    """Return noise, (4, 16000)."""
    return torch.randn(4, 16_000, generator=torch.Generator().manual_seed(1)) * 0.1


def calibrated_model() -> AASIST:
    """Return a model with the statistics of `waveforms`, so that something passes its norms."""
    torch.manual_seed(1)
    model = AASIST(160, 20)
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(waveforms())
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
