"""residual_block_training: every implementation against PyTorch's own ops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_implementations import (
    CONV1_BIAS,
    Block,
    EncoderFunctions,
    EncoderSanitized,
    Trained,
    assert_equal,
    assert_near,
    doubled,
    gradient_for,
    problem,
    tensors_of,
    threads,
    training_pass,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_residual_block import SIZES
from torch import Tensor, nn

from sparse_aasist._extension import has_kernel
from sparse_aasist.models import encoder
from sparse_aasist.models.encoder import ResidualBlock
from sparse_aasist.ops import (
    Convolution,
    backend,
    residual_block,
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


def expected_of(block: Block, grad: Tensor) -> Trained:
    tensors = [tensor.double() for tensor in tensors_of(block)]
    return training_pass(residual_block_training_reference, block, tensors, grad.double())


def check(encoder: Implementation, block: Block, grad: Tensor) -> Trained:
    got, expected = encoder.train(block, grad), expected_of(block, grad)
    assert_near(got.out, expected.out, TOLERANCE)
    for a, b in zip(got.statistics, expected.statistics, strict=True):
        assert_near(a, b, TOLERANCE)
    for index, (a, b) in enumerate(zip(got.gradients, expected.gradients, strict=True)):
        if index == CONV1_BIAS:
            assert a.abs().max() <= 1e-3 * expected.gradients[4].abs().max().clamp(min=1)
        else:
            assert_near(a, b, TOLERANCE)
    return got


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


def test_the_variance_of_large_means(encoder: Implementation) -> None:
    x, conv1, *rest = problem(2, 16, 16, 2, 200, True)
    # As a checkpoint may have it: 300 deviations from zero.
    block = (x + 300, conv1._replace(bias=conv1.bias + 300), *rest)
    got, expected = (
        encoder.train(block, gradient_for(block)),
        expected_of(block, gradient_for(block)),
    )
    for a, b in zip(got.statistics, expected.statistics, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


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

    def test_the_ops_take_an_empty_batch(self) -> None:
        x, conv1, norm, conv2, shortcut = problem(0, 8, 16, 2, 30)
        weights = (*conv1, norm.weight, norm.bias, 1e-5, *conv2, *shortcut)
        ops = torch.ops.sparse_aasist
        out, *kept, _, _ = ops.residual_block_training.default(x, *weights)
        assert out.shape == (0, 16, 2, 10) and all(s.isnan().all() for s in kept[2:])
        dx, *gradients = ops.residual_block_training_backward.default(out, *kept, x, *weights)
        assert dx.shape == x.shape and not any(gradient.any() for gradient in gradients)

    def test_threads_change_nothing(self) -> None:
        block = problem(3, 16, 32, 3, 500)
        grad = gradient_for(block)
        functions = EncoderFunctions("compiled")
        with threads(1):
            expected = functions.train(block, grad)
        for count in (2, 5):
            with threads(count):
                assert_equal(functions.train(block, grad), expected)

    def test_the_layout_of_the_gradient_changes_nothing(self) -> None:
        block = problem(2, 8, 16, 2, 40)
        grad = gradient_for(block)
        functions = EncoderFunctions("compiled")
        expected = functions.train(block, grad)
        got = functions.train(block, grad.to(memory_format=torch.channels_last))
        assert_equal(got, expected)

    def test_autocast_to_float16_and_wide_blocks_are_pytorchs(self) -> None:
        for block, enabled in ((problem(2, 8, 8, 2, 30), True), (problem(1, 129, 4, 1, 9), False)):
            grad = gradient_for(block)
            with torch.autocast("cpu", torch.float16, enabled=enabled):
                got, expected = (
                    training_pass(function, block, tensors_of(block), grad)
                    for function in (residual_block_training, residual_block_training_reference)
                )
            assert_equal(got, expected)

    def test_what_needs_no_gradient_gets_none(self) -> None:
        x, conv1, norm, conv2, _ = problem(2, 8, 8, 2, 30, True)
        weight = conv2.weight.requires_grad_()
        out = residual_block_training(x, conv1, norm.weight, norm.bias, 1e-5, conv2).out
        out.sum().backward()
        assert weight.grad is not None and x.grad is None and conv1.weight.grad is None


class TestModule:
    """`models.encoder.ResidualBlock` takes the ops, and steps aside where they do less."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The ops that were called."""
        if not has_kernel("residual_block_training", "cpu"):
            pytest.skip("this build has no cpu kernels")
        calls: list[str] = []

        def spy(name: str, function: Any) -> Any:
            def run(*arguments: Any) -> Any:
                calls.append(name)
                return function(*arguments)

            return run

        for function in (residual_block, residual_block_training):
            monkeypatch.setattr(encoder, function.__name__, spy(function.__name__, function))
        return calls

    def block(self, training: bool) -> ResidualBlock:
        torch.manual_seed(1)
        return ResidualBlock(16, 16).train(training)

    def test_training_equals_the_modules(self, calls: list[str]) -> None:
        x = clear_choices(problem(2, 16, 16, 3, 50))[0].requires_grad_()
        results = []
        for hooked in (False, True):
            block = self.block(True)
            if hooked:
                block.conv1.register_forward_hook(lambda *_: None)
            out = block(x)
            grads = torch.autograd.grad(out.square().sum(), (x, block.conv2.weight))
            results.append((out, *grads, *block.buffers()))
        assert calls == ["residual_block_training"]
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("training", [False, True])
    def test_it_steps_aside(self, calls: list[str], training: bool) -> None:
        x = torch.randn(2, 16, 3, 50)

        def runs(change: Any, x: Tensor = x) -> bool:
            block = self.block(training)
            change(block)
            calls.clear()
            with torch.no_grad():
                assert block(x).isfinite().all()
            return calls != []

        def hook(module: nn.Module) -> None:
            module.register_forward_hook(lambda *_: None)

        def wrap(block: ResidualBlock) -> None:
            block.conv1 = nn.Sequential(block.conv1).train(training)

        def pad(block: ResidualBlock) -> None:
            block.conv1.padding_mode = "circular"

        def fold(block: ResidualBlock) -> None:
            block.bn2 = nn.Identity().train(training)

        def forget(block: ResidualBlock) -> None:
            block.bn2 = nn.BatchNorm2d(16, track_running_stats=False).train(training)

        assert runs(lambda block: None)
        assert not runs(lambda block: hook(block))
        assert not runs(lambda block: hook(block.conv2))
        assert not runs(lambda block: block.conv1.register_full_backward_hook(lambda *_: None))
        assert not runs(lambda block: block.bn2.train(not training))
        assert not runs(lambda block: nn.utils.parametrizations.weight_norm(block.conv1))
        for change in (wrap, pad, fold, forget):
            assert not runs(change), change.__name__
        assert not runs(lambda block: block.double(), x.double())
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        try:
            assert not runs(lambda block: None)
        finally:
            handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            assert runs(lambda block: None)
        with torch.autocast("cpu", torch.float16):
            assert not runs(lambda block: None)

    def test_a_patched_forward_is_called(self, calls: list[str]) -> None:
        block, seen = self.block(False), []
        original = block.conv1.forward
        block.conv1.forward = lambda x: seen.append(x) or original(x)
        with torch.no_grad():
            block(torch.randn(1, 16, 3, 50))
        assert len(seen) == 1 and calls == []

    def test_scoring_with_a_gradient_runs_the_modules(self, calls: list[str]) -> None:
        assert self.block(False)(torch.randn(2, 16, 3, 50)).requires_grad
        assert calls == []


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize(
    ("position", "change", "error", "message"),
    [
        (0, lambda x: x[..., :2], ValueError, "3 steps or more"),
        (1, lambda c: c._replace(bias=c.bias[:5]), ValueError, "conv1.weight must be"),
        (2, lambda weight: weight[:5], ValueError, "norm_weight must be"),
        (3, lambda bias: bias.double(), TypeError, "norm_bias must have the dtype of x"),
        (6, lambda c: None, ValueError, "from 8 to 16 channels needs a shortcut"),
    ],
)
def test_bad_arguments(
    name: str, position: int, change: Any, error: type[Exception], message: str
) -> None:
    if name == "compiled" and not has_kernel("residual_block_training", "cpu"):
        pytest.skip("this build has no cpu kernels")
    x, conv1, norm, conv2, shortcut = problem(1, 8, 16, 2, 30)
    arguments = [x, conv1, norm.weight, norm.bias, 1e-5, conv2, shortcut]
    arguments[position] = change(arguments[position])
    with backend(name), pytest.raises(error, match=message):
        residual_block_training(*arguments)
