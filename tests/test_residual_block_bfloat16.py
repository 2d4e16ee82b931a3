"""residual_block and its training in bfloat16, against float64 that rounds alike."""

from __future__ import annotations

import pytest
import torch
from bfloat16_block import (
    BlockOps,
    assert_gradients_near,
    block_of,
    clear_gradient,
    error_of,
    expected_block,
    expected_training,
)
from encoder_implementations import (
    CONV1_BIAS,
    Block,
    EncoderSanitized,
    Trained,
    assert_equal,
    doubled,
    gradient_for,
    tensors_of,
    training_pass,
)
from implementations import ON_DEVICE, SCHEDULES
from kernel_program import KernelProgram
from torch import Tensor

from sparse_aasist.ops import residual_block_reference, residual_block_training_reference
from sparse_aasist.ops.residual_block import BFLOAT16_WIDTHS as WIDTHS

Implementation = BlockOps | EncoderSanitized

ROUNDED, SUMMED, LARGEST = 1.5e-3, 1e-3, 1e-2
"""Of the norm of a result in bfloat16, of that of a sum in float32, and of the largest entry.

What lies between two bfloat16 numbers is rounded in float32 as in float64, but for the few values
half-way: such an entry is wrong by up to 4e-3 of itself. Emulated on a CPU the errors were 6e-4,
2e-4 and 4e-3. The norm tells a wrong tap, or a border, the largest entry a single wrong value."""
STATISTICS = 2e-3
"""Of the largest; those of nine values moved by 6e-4 on a GPU, where one was rounded otherwise."""


def assert_near(got: Tensor, expected: Tensor, norm: float, name: str) -> None:
    assert got.shape == expected.shape, name
    error, scale = (got.double() - expected).abs(), expected.abs().max().clamp(min=1e-3)
    of_norm = error.norm() / expected.norm().clamp(min=1e-3)
    assert of_norm <= norm, f"{name}: {of_norm:.1e} of the norm"
    assert error.max() <= LARGEST * scale, f"{name}: {error.max() / scale:.1e} of the largest"


def check_scoring(block_ops: Implementation, block: Block) -> Tensor:
    got = block_ops.residual_block(*block)
    assert got.dtype is torch.bfloat16
    assert_near(got, expected_block(block), ROUNDED, "out")
    return got


def check_training(block_ops: Implementation, block: Block, grad: Tensor) -> Trained:
    got = block_ops.train(block, grad)
    assert got.chosen.max() <= 2
    pooled, expected = expected_training(block, grad, got.chosen)
    differ = (got.chosen != pooled.argmax(-1)).sum()
    assert differ <= max(1, 1e-3 * got.chosen.numel()), f"{differ} other choices"
    assert_near(got.out, expected.out, ROUNDED, "out")
    for index, (a, b) in enumerate(zip(got.statistics, expected.statistics, strict=True)):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=0.1)
        assert error <= STATISTICS, f"statistic {index}: {error:.1e} of the largest"
    for index, (a, b) in enumerate(zip(got.gradients, expected.gradients, strict=True)):
        if index == CONV1_BIAS:
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert a.dtype is (torch.bfloat16 if index == 0 else torch.float32)
            assert_near(a, b, ROUNDED if index == 0 else SUMMED, f"gradient {index}")
    return got


# Batch, inputs, outputs, height, steps. A warp has 48 steps, a block 192 or, for 64 outputs, 96.
SIZES = [
    *((1, *widths, 2, steps) for widths in WIDTHS for steps in (3, 47, 50, 98)),
    *((1, 32, 32, height, steps) for height, steps in ((1, 4), (3, 48), (1, 191), (2, 193))),
    *((1, 32, 64, 1, steps) for steps in (49, 95, 96, 97, 99, 100, 145)),
    # A stretch of time is 189 or 93 steps; rows are cut into parts from 5 on.
    *((1, 32, 32, 1, 189), (1, 32, 32, 1, 190), (1, 32, 64, 1, 93), (1, 64, 64, 1, 94)),
    *((1, 32, 32, 9, 10), (1, 32, 64, 9, 10), (1, 64, 64, 9, 10)),
    *((2, 1, 32, 2, 200), (1, 1, 32, 1, 385), (1, 1, 32, 23, 30), (1, 1, 32, 1, 5)),
    *((2, 32, 32, 1, 200), (2, 32, 64, 3, 50), (2, 64, 64, 1, 97), (1, 64, 64, 1, 200)),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scoring(block_ops: Implementation, size: tuple[int, ...]) -> None:
    check_scoring(block_ops, block_of(size))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_training(block_ops: Implementation, size: tuple[int, ...]) -> None:
    block = block_of(size)
    check_training(block_ops, block, gradient_for(block))


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_an_empty_batch(block_ops: Implementation, widths: tuple[int, int]) -> None:
    assert block_ops.residual_block(*block_of((0, *widths, 2, 30))).shape == (0, widths[1], 2, 10)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_nan_stays_in_its_clip_and_near(block_ops: Implementation, widths: tuple[int, int]) -> None:
    block = block_of((2, *widths, 4, 150))
    block[0][1, 0, 2, 100] = torch.nan
    got, expected = block_ops.residual_block(*block), expected_block(block)
    # NaN above all: amax has it so, too.
    assert torch.equal(got.isnan(), expected.isnan())
    assert got[1].isnan().any() and not got[0].isnan().any()
    assert_near(got.nan_to_num(), expected.nan_to_num(), ROUNDED, "out")


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_nan_in_training_is_in_all(block_ops: Implementation, widths: tuple[int, int]) -> None:
    block = block_of((2, *widths, 2, 30))
    block[0][1, 0, 1, 7] = torch.nan
    got = block_ops.train(block, gradient_for(block))
    assert got.out.isnan().all() and all(s.isnan().all() for s in got.statistics[:2])
    assert got.statistics[2].isnan().sum() == 1
    assert all(gradient.isnan().any() for gradient in (got.gradients[0], got.gradients[1]))


@pytest.mark.parametrize("width", [32, 64])
def test_the_first_of_equal_steps_gets_the_gradient(block_ops: Implementation, width: int) -> None:
    x, conv1, norm, conv2, _ = block_of((1, width, width, 2, 60))
    # Without the convolutions' part y is x, and steps are equal exactly.
    conv2 = type(conv2)(torch.zeros_like(conv2.weight), torch.zeros_like(conv2.bias))
    block = (x.float().floor().bfloat16(), conv1, norm, conv2, None)
    got = check_training(block_ops, block, gradient_for(block))
    first = block[0].float().unflatten(3, (-1, 3)).argmax(-1)
    assert torch.equal(got.chosen.long(), first)


@pytest.mark.parametrize("widths", [(1, 32), (32, 64)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_the_scale_of_the_input(
    block_ops: Implementation, widths: tuple[int, int], scale: float
) -> None:
    x, *rest = block_of((1, *widths, 1, 40))
    block = ((x.float() * scale).bfloat16(), *rest)
    check_scoring(block_ops, block)
    check_training(block_ops, block, gradient_for(block))


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_order_of_threads_changes_nothing(
    encoder_program: KernelProgram, schedule: str, widths: tuple[int, int]
) -> None:
    block = block_of((1, *widths, 1, 60))
    grad = gradient_for(block)
    ascending, other = (
        EncoderSanitized(encoder_program, ON_DEVICE, name) for name in (SCHEDULES[0], schedule)
    )
    assert torch.equal(other.residual_block(*block), ascending.residual_block(*block))
    assert_equal(other.train(block, grad), ascending.train(block, grad))


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_reference_here_is_near_the_exact_one(widths: tuple[int, int]) -> None:
    block = block_of((2, *widths, 3, 60))
    grad, chosen = clear_gradient(block)
    _, expected = expected_training(block, grad, chosen)
    exact_block = doubled(block)
    exact = training_pass(
        residual_block_training_reference, exact_block, tensors_of(exact_block), grad.double()
    )
    assert error_of(expected.out, exact.out) < 1e-2
    assert_gradients_near(expected.gradients, exact.gradients)
    assert error_of(expected_block(block), residual_block_reference(*exact_block)) < 1e-2
