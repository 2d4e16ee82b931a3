"""residual_block: every implementation against PyTorch's own ops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_implementations import (
    Block,
    EncoderFunctions,
    EncoderSanitized,
    assert_near,
    doubled,
    problem,
    threads,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_aasist._extension import has_kernel
from sparse_aasist.ops import (
    Normalisation,
    backend,
    residual_block,
    residual_block_reference,
)

Implementation = EncoderFunctions | EncoderSanitized

TOLERANCE = 5e-6
"""Winograd's transforms of float32 lose some bits."""


def check(encoder: Implementation, block: Block) -> Tensor:
    got = encoder.residual_block(*block)
    assert_near(got, residual_block_reference(*doubled(block)), TOLERANCE)
    return got


# Below 8 channels the first convolution is direct. A task has 45, 93 or 141 steps.
SIZES = [
    *((1, 1, 1, 1, 3, False), (2, 1, 32, 3, 50, False), (1, 1, 32, 2, 900, False)),
    *((2, 32, 32, 3, 149, True), (1, 32, 64, 2, 160, False), (1, 64, 64, 3, 97, True)),
    *((2, 3, 5, 4, 11, False), (1, 7, 7, 2, 45, True), (3, 8, 8, 1, 46, True)),
    *((1, 17, 33, 2, 95, False), (1, 48, 48, 2, 60, True), (1, 128, 128, 1, 13, True)),
    *((1, 9, 3, 2, 283, False), (1, 40, 20, 1, 850, False)),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_random(encoder: Implementation, size: tuple[Any, ...]) -> None:
    check(encoder, problem(*size))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(0, 2),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    height=st.integers(1, 4),
    steps=st.integers(3, 300),
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
    check(
        encoder,
        problem(batch, inputs, inputs if identity else outputs, height, steps, identity),
    )


@pytest.mark.parametrize("inputs", [4, 16])
def test_one_value_that_is_not_finite(encoder: Implementation, inputs: int) -> None:
    for value in (torch.nan, torch.inf):
        block = problem(2, inputs, 16, 5, 200)
        block[0][1, 2, 3, 100] = value
        got = encoder.residual_block(*block)
        expected = residual_block_reference(*doubled(block))
        assert not got[0].isnan().any()
        wrong = ~got[1].isfinite().all(0)
        must = ~expected[1].isfinite().all(0)
        # Everything that depends on the value, and at most its neighbours in a tile.
        assert (wrong | ~must).all()
        assert wrong[:, :30].sum() == 0 and wrong[:, 37:].sum() == 0 and wrong[0].sum() == 0
        finite = ~(wrong | must)
        assert_near(got[1][:, finite], expected[1][:, finite], TOLERANCE)


def test_channels_need_not_be_neighbours(encoder: Implementation) -> None:
    block = problem(2, 32, 32, 3, 120)
    check(encoder, (block[0].contiguous(), *block[1:]))
    check(encoder, (block[0][:, :, :, ::2], *block[1:]))


@pytest.mark.skipif(not has_kernel("residual_block", "cpu"), reason="this build has no cpu kernels")
class TestPublicFunction:
    def test_gradients_are_those_of_the_reference(self) -> None:
        block = problem(1, 8, 8, 2, 7)
        inputs = (block[0].requires_grad_(), block[1].weight.requires_grad_())
        grads = [
            torch.autograd.grad(function(*block).square().sum(), inputs)
            for function in (residual_block, residual_block_reference)
        ]
        assert all(map(torch.equal, *grads))
        with torch.no_grad():
            assert not residual_block(*block).requires_grad

    def test_the_result_has_its_channels_last(self) -> None:
        out = residual_block(*problem(2, 8, 16, 3, 30))
        assert out.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("identity", [True, False])
    def test_the_op_is_registered_completely(self, identity: bool) -> None:
        x, conv1, norm, conv2, shortcut = problem(2, 8, 8, 3, 30, identity)
        arguments = (x, *conv1, *norm, *conv2, *(shortcut or (None, None)))
        torch.library.opcheck(torch.ops.sparse_aasist.residual_block.default, arguments)

    def test_autocast_to_float16_is_pytorchs(self) -> None:
        block = problem(2, 8, 8, 3, 30)
        with torch.autocast("cpu", torch.float16):
            got, expected = residual_block(*block), residual_block_reference(*block)
        assert got.dtype is torch.float16 and torch.equal(got, expected)

    @pytest.mark.needs_cuda
    def test_float32_on_a_gpu_is_pytorchs(self) -> None:
        x, conv1, norm, conv2, shortcut = problem(2, 32, 64, 3, 100)
        parts = [type(c)(*(t.cuda() for t in c)) for c in (conv1, conv2, shortcut)]
        norm = Normalisation(*(t.cuda() for t in norm[:4]), norm.eps)
        block = (x.cuda(), parts[0], norm, *parts[1:])
        with torch.no_grad():
            assert torch.equal(residual_block(*block), residual_block_reference(*block))

    def test_threads_change_nothing(self) -> None:
        block = problem(2, 32, 32, 3, 1000)
        with threads(1):
            expected = residual_block(*block)
        for count in (2, 5):
            with threads(count):
                assert torch.equal(residual_block(*block), expected)

    def test_wider_blocks_run_as_reference(self) -> None:
        block = problem(1, 129, 129, 1, 9, True)
        assert torch.equal(residual_block(*block), residual_block_reference(*block))


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize(
    ("position", "change", "error", "message"),
    [
        (0, lambda x: x[..., :2], ValueError, "3 steps or more"),
        (0, lambda x: x[0], ValueError, "x must be"),
        (0, lambda x: x.double(), TypeError, "dtype of x"),
        (0, lambda x: x[:, :7], ValueError, "conv1.weight must be"),
        (1, lambda c: c._replace(bias=c.bias[:5]), ValueError, "conv1.weight must be"),
        (2, lambda n: n._replace(variance=n.variance[:5]), ValueError, "norm.variance must be"),
        (3, lambda c: c._replace(weight=c.weight[:, :, :1]), ValueError, "conv2.weight must be"),
        (4, lambda c: None, ValueError, "from 8 to 16 channels needs a shortcut"),
        (4, lambda c: c._replace(weight=c.weight[..., :2]), ValueError, "shortcut.weight must be"),
    ],
)
def test_bad_arguments(
    name: str, position: int, change: Any, error: type[Exception], message: str
) -> None:
    if name == "compiled" and not has_kernel("residual_block", "cpu"):
        pytest.skip("this build has no cpu kernels")
    block = list(problem(1, 8, 16, 2, 30))
    block[position] = change(block[position])
    with backend(name), pytest.raises(error, match=message):
        residual_block(*block)
