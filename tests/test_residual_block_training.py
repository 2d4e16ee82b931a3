"""residual_block_training: every implementation against PyTorch's own ops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_implementations import (
    Block,
    EncoderFunctions,
    EncoderSanitized,
    Trained,
    tensors_of,
    training_pass,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_residual_block import SIZES, doubled, problem
from torch import Tensor, nn

from sparse_aasist._extension import has_kernel
from sparse_aasist.models.encoder import ResidualBlock
from sparse_aasist.ops import (
    Convolution,
    backend,
    residual_block_training,
    residual_block_training_reference,
)

Implementation = EncoderFunctions | EncoderSanitized

TOLERANCE = 2e-5
"""Of the largest entry; sums over all steps of what Winograd's transforms of float32 leave."""


def clear_choices(block: Block) -> Block:
    """Move x so that no pool has two nearly equal steps, of which rounding would choose."""
    tensors = [tensor.double() for tensor in tensors_of(block)]
    for seed in range(50):
        x = block[0] + 0.05 * torch.randn(
            block[0].shape, generator=torch.Generator().manual_seed(seed)
        )
        values = _before_pool(x.double(), tensors, block)
        top = values.topk(2, dim=-1).values
        if (top[..., 0] - top[..., 1]).min() > 2e-5:
            return (x.contiguous(memory_format=torch.channels_last), *block[1:])
    pytest.fail("no input without near ties was found: take fewer values")


def _before_pool(x: Tensor, tensors: list[Tensor], block: Block) -> Tensor:
    _, w1, b1, weight, bias, w2, b2, *shortcut = tensors
    middle = nn.functional.conv2d(x, w1, b1, padding=(1, 1))
    middle = nn.functional.batch_norm(
        middle, None, None, weight, bias, training=True, eps=block[2].eps
    )
    y = nn.functional.conv2d(nn.functional.selu(middle), w2, b2, padding=(0, 1))
    y = y + (nn.functional.conv2d(x, *shortcut, padding=(0, 1)) if shortcut else x)
    return y[..., : y.shape[3] // 3 * 3].unflatten(3, (-1, 3))


def gradient_for(block: Block) -> Tensor:
    batch, _, height, steps = block[0].shape
    generator = torch.Generator().manual_seed(steps + 1)
    shape = (batch, block[1].weight.shape[0], height, steps // 3)
    return torch.randn(shape, generator=generator)


def expected_of(block: Block, grad: Tensor) -> Trained:
    tensors = [tensor.double() for tensor in tensors_of(block)]
    return training_pass(residual_block_training_reference, block, tensors, grad.double())


def check(encoder: Implementation, block: Block, grad: Tensor) -> Trained:
    got, expected = encoder.train(block, grad), expected_of(block, grad)
    names = ("x", "conv1", "conv1 bias", "norm", "norm bias", "conv2", "conv2 bias", "shortcut", "")
    assert_near(got.out, expected.out, "out")
    for a, b in zip(got.statistics, expected.statistics, strict=True):
        assert_near(a, b, "statistics")
    for name, a, b in zip(names, got.gradients, expected.gradients, strict=False):
        # The statistics take the gradient of conv1's bias away: what is left is rounding.
        if name == "conv1 bias":
            assert a.abs().max() <= 1e-3 * expected.gradients[4].abs().max().clamp(min=1)
        else:
            assert_near(a, b, name)
    assert len(got.gradients) == len(expected.gradients)
    return got


def assert_near(got: Tensor, expected: Tensor, name: str) -> None:
    assert got.shape == expected.shape and got.dtype is torch.float32, name
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=0.1)
    assert error <= TOLERANCE, f"{name}: {error:.1e} of the largest"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_random(encoder: Implementation, size: tuple[Any, ...]) -> None:
    batch, inputs, outputs, height, steps, identity = size
    block = clear_choices(problem(batch, inputs, outputs, min(height, 2), steps, identity))
    check(encoder, block, gradient_for(block))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(1, 2),
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    height=st.integers(1, 3),
    steps=st.integers(3, 60),
    identity=st.booleans(),
)
def test_any_size(
    encoder: Implementation,
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    steps: int,
    identity: bool,
) -> None:
    block = problem(batch, inputs, inputs if identity else outputs, height, steps, identity)
    block = clear_choices(block)
    check(encoder, block, gradient_for(block))


def test_the_first_of_equal_steps_gets_the_gradient(encoder: Implementation) -> None:
    x, conv1, norm, conv2, _ = problem(1, 8, 8, 2, 30, True)
    # Without the convolutions' part y is x, and steps are equal exactly.
    conv2 = Convolution(torch.zeros_like(conv2.weight), torch.zeros_like(conv2.bias))
    block = (x.floor(), conv1, norm, conv2, None)
    grad = gradient_for(block)
    check(encoder, block, grad)


def test_nan_spreads(encoder: Implementation) -> None:
    block = problem(2, 16, 16, 2, 50, True)
    block[0][1, 2, 1, 30] = torch.nan
    got = encoder.train(block, gradient_for(block))
    # The statistics are those of the whole batch.
    assert all(s.isnan().all() for s in got.statistics[:2]) and got.out.isnan().all()
    assert got.statistics[2].isnan().sum() == 1
    assert all(gradient.isnan().any() for gradient in got.gradients[:4])


@pytest.mark.skipif(
    not has_kernel("residual_block_training", "cpu"), reason="this build has no cpu kernels"
)
class TestPublicFunction:
    def test_float64_runs_as_reference_and_its_gradient_is_exact(self) -> None:
        block = doubled(clear_choices(problem(2, 3, 4, 2, 7)))
        inputs = [tensor.requires_grad_() for tensor in tensors_of(block)]

        def out(*tensors: Tensor) -> Tensor:
            x, w1, b1, weight, bias, w2, b2, ws, bs = tensors
            return residual_block_training(
                *(x, Convolution(w1, b1), weight, bias, 1e-5),
                *(Convolution(w2, b2), Convolution(ws, bs)),
            ).out

        assert torch.autograd.gradcheck(out, inputs)

    @pytest.mark.parametrize("identity", [True, False])
    def test_the_ops_are_registered_completely(self, identity: bool) -> None:
        block = problem(2, 8, 8, 2, 30, identity)
        x, conv1, norm, conv2, shortcut = block
        weights = (*conv1, norm.weight, norm.bias, 1e-5, *conv2, *(shortcut or (None, None)))
        ops = torch.ops.sparse_aasist
        torch.library.opcheck(ops.residual_block_training.default, (x, *weights))
        _, *kept, _, _ = ops.residual_block_training.default(x, *weights)
        torch.library.opcheck(
            ops.residual_block_training_backward.default,
            (gradient_for(block), *kept, x, *weights),
        )

    def test_threads_change_nothing(self) -> None:
        block = problem(3, 16, 32, 3, 500)
        grad = gradient_for(block)
        functions = EncoderFunctions("compiled")
        expected = functions.train(block, grad)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            got = functions.train(block, grad)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(got.out, expected.out)
        for a, b in zip(got.gradients, expected.gradients, strict=True):
            assert torch.equal(a, b)

    def test_the_layout_of_the_gradient_changes_nothing(self) -> None:
        block = problem(2, 8, 16, 2, 40)
        grad = gradient_for(block)
        functions = EncoderFunctions("compiled")
        expected = functions.train(block, grad)
        got = functions.train(block, grad.to(memory_format=torch.channels_last))
        for a, b in zip(got.gradients, expected.gradients, strict=True):
            assert torch.equal(a, b)

    def test_running_statistics_move_as_those_of_modules(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(2, 16, 3, 50)
        blocks = {}
        for name in ("compiled", "reference"):
            torch.manual_seed(1)
            blocks[name] = ResidualBlock(16, 16).train()
        with backend("compiled"):
            blocks["compiled"](x)
        # A hook makes the modules run one by one.
        blocks["reference"].conv1.register_forward_hook(lambda *_: None)
        blocks["reference"](x)
        for a, b in zip(blocks["compiled"].buffers(), blocks["reference"].buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
