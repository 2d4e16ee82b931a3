"""residual_block under autocast: which code runs, its dtypes, and the model around it."""

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
from sparse_aasist._extension import (
    SIMD_LEVELS,
    cpu_multiplies_bfloat16,
    has_kernel,
    limit_simd_level,
)
from sparse_aasist.models import encoder
from sparse_aasist.ops import (
    backend,
    residual_block,
    residual_block_reference,
    residual_block_training,
    residual_block_training_reference,
)
from sparse_aasist.ops._backend import use_kernel
from sparse_aasist.ops.residual_block import BFLOAT16_WIDTHS as WIDTHS
from sparse_aasist.ops.residual_block import kernel_dtype


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
    ("autocast", "inputs", "outputs", "shortcut", "dtype", "gpu", "amx", "cpu"),
    [
        # What a kernel reads on a GPU, on a CPU with AMX, and on another one.
        *((BF16, a, b, a != b, BF16, BF16, BF16, SINGLE) for a, b in WIDTHS),
        (BF16, 1, 32, True, SINGLE, BF16, BF16, SINGLE),
        (BF16, 32, 32, True, BF16, None, SINGLE, SINGLE),
        (BF16, 32, 48, True, BF16, None, SINGLE, SINGLE),
        (BF16, 1, 64, True, SINGLE, None, SINGLE, SINGLE),
        (BF16, 32, 160, True, BF16, None, None, None),
        (BF16, 32, 32, False, HALF, None, None, None),
        (None, 32, 32, False, SINGLE, None, SINGLE, SINGLE),
        (None, 32, 32, False, BF16, None, None, None),
        *((HALF, 32, 32, False, dtype, *[None] * 3) for dtype in (SINGLE, BF16, HALF)),
    ],
)
def test_what_a_kernel_reads(
    monkeypatch: pytest.MonkeyPatch,
    autocast: torch.dtype | None,
    inputs: int,
    outputs: int,
    shortcut: bool,
    dtype: torch.dtype,
    gpu: torch.dtype | None,
    amx: torch.dtype | None,
    cpu: torch.dtype | None,
) -> None:
    module = importlib.import_module("sparse_aasist.ops.residual_block")
    monkeypatch.setattr(module, "use_kernel", lambda op, kind: True)
    monkeypatch.setattr(module, "autocast_dtype", lambda x: autocast)
    for device, has_amx, expected in (
        ("cuda", False, gpu),
        ("cpu", True, amx),
        ("cpu", False, cpu),
    ):
        monkeypatch.setattr(module, "cpu_multiplies_bfloat16", lambda has=has_amx: has)
        with FakeTensorMode():
            x = torch.empty(2, inputs, 3, 9, dtype=dtype, device=device)
            weight = torch.empty(outputs, inputs, 2, 3, device=device)
            assert kernel_dtype(x, weight, shortcut) is expected
            assert kernel_dtype(x, weight.bfloat16(), shortcut) is None
            if expected is BF16:
                long = torch.empty(2, inputs, 1, 1 << 25, dtype=dtype, device=device)
                beyond = SINGLE if device == "cpu" else None
                assert kernel_dtype(long, weight, shortcut) is beyond
            empty = torch.empty(0, inputs, 3, 9, dtype=dtype, device=device)
            assert kernel_dtype(empty, weight, shortcut) is None


@pytest.mark.skipif(not has_kernel("residual_block", "cpu"), reason="there are no CPU kernels")
def test_a_cpu_without_amx_rounds_the_result_of_float32() -> None:
    block = block_of((2, 32, 64, 2, 30))
    x, *rest = block
    exact, grad = (x.float(), *rest), gradient_for(block)
    limit_simd_level(SIMD_LEVELS[-2])
    try:
        trained = training_pass(residual_block_training, exact, tensors_of(exact), grad.float())
        with torch.no_grad():
            scored = residual_block(*exact)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(residual_block(*block), scored.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            got = training_pass(residual_block_training, block, tensors_of(block), grad)
    finally:
        limit_simd_level(SIMD_LEVELS[-1])
    assert torch.equal(got.out, trained.out.bfloat16())
    assert torch.equal(got.gradients[0], trained.gradients[0].bfloat16())
    assert all(map(torch.equal, got.gradients[1:], trained.gradients[1:]))


def on(device: str, block: Block) -> Block:
    """Move a block."""
    x, *rest = block
    parts = (part and type(part)(*(_moved(value, device) for value in part)) for part in rest)
    return (x.to(device), *parts)


def _moved(value: Tensor | float, device: str) -> Tensor | float:
    return value.to(device) if isinstance(value, Tensor) else value


def _needs_amx() -> pytest.MarkDecorator:
    reason = "the CPU kernels have no products in bfloat16 (AMX)"
    return pytest.mark.skipif(not cpu_multiplies_bfloat16(), reason=reason)


BFLOAT16_DEVICES = [
    pytest.param("cpu", marks=_needs_amx()),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]


@pytest.mark.parametrize("device", BFLOAT16_DEVICES)
class TestFunctions:
    """The public functions where bfloat16 has kernels."""

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_layouts_change_nothing(self, device: str, widths: tuple[int, int]) -> None:
        block = block_of((2, *widths, 2, 70))
        ops, x, grad = BlockOps("compiled", device), block[0], gradient_for(block)
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
    def test_functions_under_autocast(
        self, device: str, widths: tuple[int, int], dtype: torch.dtype
    ) -> None:
        size = (2, *widths, 5, 300)
        lowered = block_of(size)
        block = on(device, (lowered[0].to(dtype), *lowered[1:]))
        grad, _ = clear_gradient(lowered)
        with torch.autocast(device, torch.bfloat16), backend("compiled"):
            got = training_pass(residual_block_training, block, tensors_of(block), grad.to(device))
            with torch.no_grad():
                scored = residual_block(*block)
        by_op = BlockOps("compiled", device).train(lowered, grad)
        assert torch.equal(got.out.cpu(), by_op.out)
        assert [g.dtype for g in got.gradients] == [t.dtype for t in tensors_of(block)]
        for a, b in zip(got.gradients, by_op.gradients, strict=True):
            assert torch.equal(a.cpu().float(), b.float())
        assert torch.equal(scored.cpu(), BlockOps("compiled", device).residual_block(*lowered))
        with torch.autocast(device, torch.bfloat16):
            expected = training_pass(
                residual_block_training_reference, block, tensors_of(block), grad.to(device)
            )
        assert got.out.dtype is expected.out.dtype is torch.bfloat16
        assert error_of(got.out, expected.out) < 2e-2
        assert_gradients_near(got.gradients, expected.gradients)

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_compiles_for_any_size(self, device: str, widths: tuple[int, int]) -> None:
        block = on(device, block_of((2, *widths, 2, 30)))
        compiled = torch.compile(residual_block, backend="aot_eager", fullgraph=True, dynamic=True)
        with torch.autocast(device, torch.bfloat16), torch.no_grad():
            assert torch.equal(compiled(*block), residual_block(*block))

    @pytest.mark.parametrize("widths", WIDTHS, ids=str)
    def test_two_runs_are_equal(self, device: str, widths: tuple[int, int]) -> None:
        block = block_of((4, *widths, 23, 1000))
        ops, grad = BlockOps("compiled", device), gradient_for(block)
        assert_equal(ops.train(block, grad), ops.train(block, grad))

    def test_statistics_beside_an_outlier(self, device: str) -> None:
        # Moments of a single channel are taken about what the first steps are like, not about the
        # first one alone. Neither its weights nor its middle are rounded.
        x, conv1, *rest = block_of((2, 1, 32, 10, 1500))
        x[0, 0, 0, 0] = 3000
        got = BlockOps("compiled", device).train((x, conv1, *rest), gradient_for((x, conv1, *rest)))
        middle = F.conv2d(x.double(), *(t.double() for t in conv1), padding=(1, 1))
        for index, values in ((1, middle), (3, x.double())):
            expected = values.var(dim=(0, 2, 3), correction=0)
            torch.testing.assert_close(got.statistics[index].double(), expected, rtol=2e-4, atol=0)

    def test_more_work_than_blocks(self, device: str) -> None:
        # 2,048 blocks convolve and 264 sum gradients; each goes on to its next piece.
        block = block_of((80, 32, 32, 23, 1000))
        x, *rest = block
        ops = BlockOps("compiled", device)
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
    def test_ops_are_registered_completely(self, device: str, widths: tuple[int, int]) -> None:
        assert use_kernel("residual_block", device)  # and the fakes are registered
        x, conv1, norm, conv2, shortcut = on(device, block_of((2, *widths, 2, 30)))
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
    def test_empty_batches(self, device: str, widths: tuple[int, int]) -> None:
        block = block_of((0, *widths, 2, 30))
        got = BlockOps("compiled", device).train(block, gradient_for(block))
        assert all(statistic.isnan().all() for statistic in got.statistics)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in got.gradients)

    def test_what_kernels_refuse(self, device: str) -> None:
        ops = BlockOps("compiled", device)
        with pytest.raises(RuntimeError, match="blocks in bfloat16 are 1 to 32"):
            ops.residual_block(*block_of((1, 32, 48, 2, 30)))
        for clips, steps in ((1, 1 << 25), (1 << 31, 3)):
            x, *rest = block_of((1, 1, 32, 1, 3))
            x = x[..., :1].to(device).expand(clips, 1, 1, steps)  # nothing so large is written
            with pytest.raises(RuntimeError, match=f"got {clips} of {steps}"):
                ops.residual_block(x, *rest)
        x, *rest = problem(1, 32, 32, 2, 30, True)
        with pytest.raises(RuntimeError, match=r"must be .*bfloat16"):
            ops.residual_block(x.half(), *rest)


@pytest.mark.parametrize("lowered", ["x", "a weight"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def test_what_no_kernel_takes_runs_as_reference(device: str, lowered: str) -> None:
    # Wider than kernels are, and with a weight that is not float32.
    x, conv1, norm, *rest = on(device, block_of((1, 32, 160 if lowered == "x" else 32, 2, 30)))
    if lowered == "a weight":
        conv1 = type(conv1)(conv1.weight, conv1.bias.bfloat16())
    with torch.autocast(device, torch.bfloat16), torch.no_grad():
        got = residual_block(x, conv1, norm, *rest)
        assert torch.equal(got, residual_block_reference(x, conv1, norm, *rest))


@pytest.fixture(scope="module")
def model() -> AASIST:
    return calibrated_model()


@pytest.mark.parametrize("device", BFLOAT16_DEVICES)
class TestModel:
    """The whole model with its encoder in bfloat16."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype | None]:
        """For each call of a residual block, what its kernel reads."""
        calls: list[torch.dtype | None] = []

        def spy(*arguments: Any, **named: Any) -> torch.dtype | None:
            calls.append(kernel_dtype(*arguments, **named))
            return calls[-1]

        monkeypatch.setattr(encoder, "kernel_dtype", spy)
        return calls

    def test_scoring(self, device: str, model: AASIST, calls: list[torch.dtype | None]) -> None:
        there, moved = copy.deepcopy(model).to(device), waveforms().to(device)
        with torch.no_grad(), backend("compiled"), torch.autocast(device, torch.bfloat16):
            got, features = there(moved), there.encoder(there._filter(moved)).cpu()
        assert calls == [torch.bfloat16] * 12
        with torch.no_grad():
            assert error_of(features, model.encoder(model._filter(waveforms()))) < FEATURES
            # From these features on: the graphs sort their nodes, of which rounding swaps some in
            # noise, and logits then move by 0.1.
            expected = model._classify(features.float())
        torch.testing.assert_close(got.logits.cpu(), expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.embedding.cpu(), expected.embedding, rtol=0, atol=1e-4)

    def test_the_gradient_of_the_encoder(
        self, device: str, model: AASIST, calls: list[torch.dtype | None]
    ) -> None:
        # The pools choose other steps in low precision, in PyTorch's as well: emulated on a CPU,
        # this gradient has a cosine of 0.991 with that of float32, PyTorch's one of 0.98 to 0.99.
        x = model._filter(waveforms()).detach()
        expected = self.gradient(model, x)
        calls.clear()
        with torch.autocast(device, torch.bfloat16), backend("compiled"):
            got = self.gradient(copy.deepcopy(model).to(device), x.to(device))
        assert calls == [torch.bfloat16] * 6
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


@pytest.mark.needs_cuda
def test_a_graph_of_scoring_repeats_it() -> None:
    gpu, static = calibrated_model().cuda(), waveforms().cuda()
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
