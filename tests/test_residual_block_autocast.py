"""residual_block under autocast: which code runs, its dtypes, and the model around it on a GPU."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bfloat16_block import (
    FEATURES,
    BlockOps,
    assert_gradients_near,
    block_of,
    calibrated_model,
    clear_gradient,
    error_of,
    expected_block,
    expected_training,
    waveforms,
)
from encoder_implementations import (
    Block,
    assert_equal,
    gradient_for,
    problem,
    tensors_of,
    training_pass,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode

from sparse_aasist import AASIST
from sparse_aasist.models import encoder
from sparse_aasist.ops import (
    backend,
    residual_block,
    residual_block_reference,
    residual_block_training,
    residual_block_training_reference,
)
from sparse_aasist.ops._backend import use_kernel
from sparse_aasist.ops.residual_block import CUDA_WIDTHS as WIDTHS
from sparse_aasist.ops.residual_block import can_use_kernel


class TestAutocast:
    """What a CPU tells of the functions under autocast."""

    @pytest.mark.parametrize("function", [residual_block, residual_block_reference])
    def test_x_may_be_lowered_beside_float32_weights(self, function: Callable[..., Tensor]) -> None:
        block = block_of((2, 32, 64, 2, 30))
        with torch.autocast("cpu", torch.bfloat16):
            got = function(*block)
        assert got.dtype is torch.bfloat16
        assert error_of(got, expected_block(block)) < 2e-2
        with pytest.raises(TypeError, match=r"conv1.weight must have the dtype of x"):
            function(*block)

    @pytest.mark.parametrize(
        "function", [residual_block_training, residual_block_training_reference]
    )
    def test_gradients_have_the_dtype_of_what_was_given(self, function: Callable) -> None:
        block = block_of((2, 32, 64, 2, 30))
        grad, chosen = clear_gradient(block)
        with torch.autocast("cpu", torch.bfloat16):
            got = training_pass(function, block, tensors_of(block), grad)
        assert [g.dtype for g in got.gradients] == [t.dtype for t in tensors_of(block)]
        _, expected = expected_training(block, grad, chosen)
        assert_gradients_near(got.gradients, expected.gradients)


HALF, BF16, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("autocast", "inputs", "outputs", "shortcut", "dtype", "fits"),
    [
        *((BF16, a, b, a != b, BF16, True) for a, b in WIDTHS),
        (BF16, 1, 32, True, SINGLE, True),
        (BF16, 32, 32, True, BF16, False),
        (BF16, 32, 48, True, BF16, False),
        (BF16, 1, 64, True, BF16, False),
        (BF16, 32, 32, False, HALF, False),
        *((None, 32, 32, False, dtype, False) for dtype in (SINGLE, BF16)),
        *((HALF, 32, 32, False, dtype, False) for dtype in (SINGLE, BF16, HALF)),
    ],
)
def test_what_has_a_kernel_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    autocast: torch.dtype | None,
    inputs: int,
    outputs: int,
    shortcut: bool,
    dtype: torch.dtype,
    fits: bool,
) -> None:
    module = importlib.import_module("sparse_aasist.ops.residual_block")
    monkeypatch.setattr(module, "use_kernel", lambda op, kind: True)
    monkeypatch.setattr(module, "autocast_dtype", lambda x: autocast)
    with FakeTensorMode():
        x = torch.empty(2, inputs, 3, 9, dtype=dtype, device="cuda")
        weight = torch.empty(outputs, inputs, 2, 3, device="cuda")
        assert can_use_kernel(x, weight, shortcut) is fits
        assert not can_use_kernel(x, weight.bfloat16(), shortcut)
        empty = torch.empty(0, inputs, 3, 9, dtype=dtype, device="cuda")
        assert not can_use_kernel(empty, weight, shortcut)


@pytest.mark.needs_cuda
class TestOnGpu:
    """The public functions and the model, where kernels are."""

    def block(self, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Block:
        x, *rest = block_of(size)
        parts = (part and type(part)(*(_cuda(value) for value in part)) for part in rest)
        return (x.cuda().to(dtype), *parts)

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_layouts_change_nothing(self, widths: tuple[int, int]) -> None:
        block = block_of((2, *widths, 2, 70))
        ops, x, grad = BlockOps("compiled", "cuda"), block[0], gradient_for(block)
        expected, trained = ops.residual_block(*block), ops.train(block, grad)
        rows = x.permute(0, 2, 3, 1)
        # Not from a multiple of 16 bytes on, in another order, and with gaps.
        room = torch.zeros(x.numel() + 1, dtype=x.dtype)
        room[1:] = rows.flatten()
        shifted = room[1:].view(rows.shape).permute(0, 3, 1, 2)
        gaps = x.repeat_interleave(2, dim=3)[..., ::2]
        for other in (shifted, x.contiguous(), gaps):
            block = (other, *block[1:])
            assert torch.equal(ops.residual_block(*block), expected)
            for some in (grad.to(memory_format=torch.channels_last), grad.float()):
                assert_equal(ops.train(block, some), trained)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_functions_under_autocast(self, widths: tuple[int, int], dtype: torch.dtype) -> None:
        size = (2, *widths, 5, 300)
        lowered, block = block_of(size), self.block(size, dtype)
        grad, _ = clear_gradient(lowered)
        with torch.autocast("cuda", torch.bfloat16), backend("compiled"):
            got = training_pass(residual_block_training, block, tensors_of(block), grad.cuda())
            with torch.no_grad():
                scored = residual_block(*block)
        by_op = BlockOps("compiled", "cuda").train(lowered, grad)
        assert torch.equal(got.out.cpu(), by_op.out)
        assert [g.dtype for g in got.gradients] == [t.dtype for t in tensors_of(block)]
        for a, b in zip(got.gradients, by_op.gradients, strict=True):
            assert torch.equal(a.cpu().float(), b.float())
        assert torch.equal(scored.cpu(), BlockOps("compiled", "cuda").residual_block(*lowered))
        with torch.autocast("cuda", torch.bfloat16):
            expected = training_pass(
                residual_block_training_reference, block, tensors_of(block), grad.cuda()
            )
        assert got.out.dtype is expected.out.dtype is torch.bfloat16
        assert error_of(got.out, expected.out) < 2e-2
        assert_gradients_near(got.gradients, expected.gradients)

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_two_runs_are_equal(self, widths: tuple[int, int]) -> None:
        block = block_of((4, *widths, 23, 1000))
        ops, grad = BlockOps("compiled", "cuda"), gradient_for(block)
        assert_equal(ops.train(block, grad), ops.train(block, grad))

    def test_more_work_than_blocks(self) -> None:
        # 2,048 blocks convolve and 264 sum gradients; each goes on to its next piece.
        block = block_of((80, 32, 32, 23, 1000))
        x, *rest = block
        ops = BlockOps("compiled", "cuda")
        parts = [ops.residual_block(part, *rest) for part in x.split(8)]
        assert torch.equal(ops.residual_block(*block), torch.cat(parts))
        grad = gradient_for(block)
        got = ops.train(block, grad)
        again = (torch.cat([x, x]), *rest)
        twice = ops.train(again, torch.cat([grad, grad]))
        # The statistics are the same, and gradients of weights twice as large.
        for one, two in zip(got.gradients[1:], twice.gradients[1:], strict=True):
            torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-3 * one.abs().max().item())

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_ops_are_registered_completely(self, widths: tuple[int, int]) -> None:
        assert use_kernel("residual_block", "cuda")  # and the fakes are registered
        x, conv1, norm, conv2, shortcut = self.block((2, *widths, 2, 30), torch.bfloat16)
        tail = (*conv2, *(shortcut or (None, None)))
        ops = torch.ops.sparse_aasist
        torch.library.opcheck(ops.residual_block.default, (x, *conv1, *norm, *tail))
        weights = (*conv1, norm.weight, norm.bias, 1e-5, *tail)
        torch.library.opcheck(ops.residual_block_training.default, (x, *weights))
        out, *kept, _, _ = ops.residual_block_training.default(x, *weights)
        torch.library.opcheck(
            ops.residual_block_training_backward.default,
            (torch.ones_like(out), *kept, x, *weights),
        )

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_empty_batches(self, widths: tuple[int, int]) -> None:
        block = block_of((0, *widths, 2, 30))
        got = BlockOps("compiled", "cuda").train(block, gradient_for(block))
        assert all(statistic.isnan().all() for statistic in got.statistics)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in got.gradients)

    def test_other_blocks_run_as_reference(self) -> None:
        wide = self.block((1, 32, 48, 2, 30), torch.bfloat16)
        x, conv1, norm, *rest = self.block((1, 32, 32, 2, 30), torch.bfloat16)
        conv1 = type(conv1)(conv1.weight, conv1.bias.bfloat16())
        with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
            for block in (wide, (x, conv1, norm, *rest)):
                assert torch.equal(residual_block(*block), residual_block_reference(*block))
        ops = BlockOps("compiled", "cuda")
        with pytest.raises(RuntimeError, match="blocks on a GPU are 1 to 32"):
            ops.residual_block(*block_of((1, 32, 48, 2, 30)))
        for clips, steps in ((1, 1 << 25), (1 << 31, 3)):
            x, *rest = block_of((1, 1, 32, 1, 3))
            x = x[..., :1].cuda().expand(clips, 1, 1, steps)  # nothing so large is written
            with pytest.raises(RuntimeError, match=f"got {clips} of {steps}"):
                ops.residual_block(x, *rest)
        with pytest.raises(RuntimeError, match="must be bfloat16"):
            ops.residual_block(*problem(1, 32, 32, 2, 30, True))


def _cuda(value: Tensor | float) -> Tensor | float:
    return value.cuda() if isinstance(value, Tensor) else value


@pytest.mark.needs_cuda
class TestModelOnGpu:
    """The whole model with its encoder in bfloat16."""

    @pytest.fixture(scope="class")
    def model(self) -> AASIST:
        return calibrated_model()

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """For each call of a residual block, whether a kernel runs."""
        calls: list[bool] = []

        def spy(*arguments: Any, **named: Any) -> bool:
            calls.append(can_use_kernel(*arguments, **named))
            return calls[-1]

        monkeypatch.setattr(encoder, "can_use_kernel", spy)
        return calls

    def test_scoring(self, model: AASIST, calls: list[bool]) -> None:
        gpu, moved = copy.deepcopy(model).cuda(), waveforms().cuda()
        with torch.no_grad(), backend("compiled"), torch.autocast("cuda", torch.bfloat16):
            got, features = gpu(moved), gpu.encoder(gpu._filter(moved)).cpu()
        assert calls == [True] * 12
        with torch.no_grad():
            assert error_of(features, model.encoder(model._filter(waveforms()))) < FEATURES
            # From these features on: the graphs sort their nodes, of which rounding swaps some in
            # noise, and logits then move by 0.1.
            expected = model._classify(features.float())
        torch.testing.assert_close(got.logits.cpu(), expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.embedding.cpu(), expected.embedding, rtol=0, atol=1e-4)

    def test_a_graph_of_scoring_repeats_it(self, model: AASIST) -> None:
        gpu, static = copy.deepcopy(model).cuda(), waveforms().cuda()
        other = static.flip(0)
        settings = {"dtype": torch.bfloat16, "cache_enabled": False}
        with torch.no_grad(), backend("compiled"), torch.autocast("cuda", **settings):
            expected = [gpu(static).logits, gpu(other).logits]
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = gpu(static).logits
            for one, logits in zip((static.clone(), other), expected, strict=True):
                static.copy_(one)
                graph.replay()
                assert torch.equal(captured, logits)

    def test_the_gradient_of_the_encoder(self, model: AASIST, calls: list[bool]) -> None:
        # The pools choose other steps in low precision, in PyTorch's as well: emulated on a CPU,
        # this gradient has a cosine of 0.991 with that of float32, PyTorch's one of 0.98 to 0.99.
        x = model._filter(waveforms()).detach()
        expected = self.gradient(model, x)
        calls.clear()
        with torch.autocast("cuda", torch.bfloat16), backend("compiled"):
            got = self.gradient(copy.deepcopy(model).cuda(), x.cuda())
        assert calls == [True] * 6
        assert F.cosine_similarity(got, expected, dim=0) > 0.98

    def gradient(self, model: AASIST, x: Tensor) -> Tensor:
        """Return the gradients of all parameters, each of norm 1."""
        trained = copy.deepcopy(model.encoder).train()
        features = trained(x).float()
        generator = torch.Generator().manual_seed(1)
        grad = torch.randn(features.shape, generator=generator).to(features)
        with torch.autocast(features.device.type, enabled=False):
            features.backward(grad)
        named = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
        # The statistics take the gradient of conv1's bias away: what is left is rounding.
        grads = [g.cpu().flatten() for n, g in named.items() if not n.endswith("conv1.bias")]
        return torch.cat([g / g.norm() for g in grads])
