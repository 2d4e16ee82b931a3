"""front_end: every implementation against PyTorch's own ops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_implementations import EncoderFunctions, EncoderSanitized, assert_near, threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import ON_DEVICE, SCHEDULES
from torch import Tensor

from sparse_aasist._extension import has_kernel
from sparse_aasist.models.front_end import sinc_filters
from sparse_aasist.ops import Normalisation, backend, front_end, front_end_reference

Implementation = EncoderFunctions | EncoderSanitized
Problem = tuple[Tensor, Tensor, Normalisation]

TOLERANCE = 2e-6
"""A hundred products are summed in float32."""


def problem(batch: int, samples: int, filters: int, taps: int) -> Problem:
    generator = torch.Generator().manual_seed(samples)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    bank = randn(filters, 1, taps)
    norm = Normalisation(randn(1), randn(1), randn(1), torch.rand(1) + 0.5, 1e-5)
    return randn(batch, samples), bank + bank.flip(2), norm


def doubled(waveform: Tensor, filters: Tensor, norm: Normalisation) -> Problem:
    norm = Normalisation(*(tensor.double() for tensor in norm[:4]), norm.eps)
    return waveform.double(), filters.double(), norm


def is_device(filter_bank: Implementation) -> bool:
    if isinstance(filter_bank, EncoderSanitized):
        return filter_bank.where[0] == ON_DEVICE
    return filter_bank.device == "cuda"


def check(filter_bank: Implementation, arguments: Problem) -> Tensor:
    got = filter_bank.front_end(*arguments)
    assert_near(got, front_end_reference(*doubled(*arguments)), TOLERANCE)
    return got


@pytest.mark.parametrize(
    ("batch", "samples", "filters", "taps"),
    [
        *((1, 5, 3, 3), (2, 3, 3, 1), (3, 200, 4, 5), (2, 1000, 8, 31), (1, 5000, 9, 129)),
        *((2, 1700, 70, 129), (1, 131, 70, 129), (1, 4700, 6, 33), (1, 700, 13, 301)),
    ],
)
def test_random(
    filter_bank: Implementation, batch: int, samples: int, filters: int, taps: int
) -> None:
    check(filter_bank, problem(batch, samples, filters, taps))


def test_the_filters_of_the_model(filter_bank: Implementation) -> None:
    waveform, _, norm = problem(2, 4000, 3, 3)
    check(filter_bank, (0.1 * waveform, sinc_filters(70, 128).unsqueeze(1), norm))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(0, 3),
    filters=st.integers(3, 20),
    half=st.integers(0, 20),
    more=st.integers(0, 1700),
)
def test_any_size(
    filter_bank: Implementation, batch: int, filters: int, half: int, more: int
) -> None:
    taps = 2 * half + 1
    check(filter_bank, problem(batch, taps + 2 + more, filters, taps))


def test_nan_and_infinity(filter_bank: Implementation) -> None:
    waveform, filters, norm = problem(2, 900, 9, 31)
    waveform[0, 400], waveform[1, 70] = torch.nan, torch.inf
    got = check(filter_bank, (waveform, filters, norm))
    assert got[0].isnan().any() and not got[0].isnan().all()


def test_without_a_normalisation(filter_bank: Implementation) -> None:
    waveform, filters, _ = problem(2, 900, 9, 31)
    got = filter_bank.front_end(waveform, filters, None)
    assert_near(got, front_end_reference(waveform.double(), filters.double()), TOLERANCE)


def test_silence_is_the_shift(filter_bank: Implementation) -> None:
    _, filters, norm = problem(1, 900, 9, 31)
    check(filter_bank, (torch.zeros(1, 900), filters, norm))


def test_samples_need_not_be_neighbours(filter_bank: Implementation) -> None:
    waveform, filters, norm = problem(4, 1800, 9, 31)
    check(filter_bank, (waveform[::2, ::2], filters, norm))


def test_filters_that_are_not_symmetric_show_on_a_device(filter_bank: Implementation) -> None:
    if not is_device(filter_bank):
        pytest.skip("the CPU refuses such filters, the reference takes them")
    waveform, filters, norm = problem(2, 300, 7, 31)
    filters[4, 0, 2] += 1
    got = filter_bank.front_end(waveform, filters, norm)
    assert got[:, :, 1].isnan().all()
    expected = front_end_reference(*doubled(waveform, filters, norm))
    assert_near(got[:, :, :1], expected[:, :, :1], TOLERANCE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_in_any_order_of_threads(encoder_program: Any, schedule: str) -> None:
    check(EncoderSanitized(encoder_program, ON_DEVICE, schedule), problem(2, 1700, 15, 301))


def on_gpu(arguments: Problem) -> Problem:
    waveform, filters, norm = arguments
    norm = Normalisation(*(tensor.cuda() for tensor in norm[:4]), norm.eps)
    return waveform.cuda(), filters.cuda(), norm


@pytest.mark.needs_cuda
def test_autocast_changes_nothing_on_a_gpu() -> None:
    arguments = on_gpu(problem(2, 300, 7, 31))
    with torch.no_grad(), backend("compiled"):
        expected = front_end(*arguments)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.equal(front_end(*arguments), expected)


@pytest.mark.needs_cuda
def test_cuda_graphs_capture_it() -> None:
    arguments = on_gpu(problem(2, 5000, 70, 129))
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), backend("compiled"):
        expected = front_end(*arguments)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            got = front_end(*arguments)
    arguments[0].neg_()  # magnitudes alone count
    graph.replay()
    assert torch.equal(got, expected)


@pytest.mark.skipif(not has_kernel("front_end", "cpu"), reason="this build has no cpu kernels")
class TestPublicFunction:
    def test_gradients_are_those_of_the_reference(self) -> None:
        waveform, filters, norm = problem(2, 60, 6, 5)
        inputs = (waveform.requires_grad_(), norm.weight.requires_grad_())
        grads = [
            torch.autograd.grad(function(waveform, filters, norm).square().sum(), inputs)
            for function in (front_end, front_end_reference)
        ]
        assert all(map(torch.equal, *grads))

    def test_the_op_is_registered_completely(self) -> None:
        waveform, filters, norm = problem(2, 300, 7, 31)
        torch.library.opcheck(torch.ops.sparse_aasist.front_end.default, (waveform, filters, *norm))

    def test_autocast_changes_nothing(self) -> None:
        arguments = problem(2, 300, 7, 31)
        expected = front_end(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(front_end(*arguments), expected)

    def test_threads_change_nothing(self) -> None:
        arguments = problem(3, 20_000, 70, 129)
        with threads(1):
            expected = front_end(*arguments)
        for count in (2, 5):
            with threads(count):
                assert torch.equal(front_end(*arguments), expected)

    def test_filters_must_be_symmetric(self) -> None:
        waveform, filters, norm = problem(2, 300, 7, 31)
        filters[3, 0, 4] += 1
        with pytest.raises(RuntimeError, match="filters must be symmetric"):
            front_end(waveform, filters, norm)


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w, f, n: (w[:, :32], f, n), ValueError, "33 samples or more"),
        (lambda w, f, n: (w[0], f, n), ValueError, r"waveform must be \(batch, samples\)"),
        (lambda w, f, n: (w, f[:, :, 1:], n), ValueError, "odd number of taps"),
        (lambda w, f, n: (w, f[:2], n), ValueError, "3 or more"),
        (lambda w, f, n: (w, f.squeeze(1), n), ValueError, "filters must be"),
        (lambda w, f, n: (w, f, n._replace(mean=torch.zeros(2))), ValueError, "norm.mean must be"),
        (lambda w, f, n: (w.double(), f, n), TypeError, "filters must have the dtype of waveform"),
        (lambda w, f, n: (w.int(), f, n), TypeError, "waveform must be float32"),
    ],
)
def test_bad_arguments(name: str, change: object, error: type, message: str) -> None:
    if name == "compiled" and not has_kernel("front_end", "cpu"):
        pytest.skip("this build has no cpu kernels")
    arguments = change(*problem(2, 300, 7, 31))
    with backend(name), pytest.raises(error, match=message):
        front_end(*arguments)
