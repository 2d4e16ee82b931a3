"""front_end: every implementation against PyTorch's own ops in float64."""

from __future__ import annotations

import pytest
import torch
from encoder_implementations import EncoderFunctions, EncoderSanitized, assert_near, threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


def check(encoder: Implementation, arguments: Problem) -> Tensor:
    got = encoder.front_end(*arguments)
    assert_near(got, front_end_reference(*doubled(*arguments)), TOLERANCE)
    return got


@pytest.mark.parametrize(
    ("batch", "samples", "filters", "taps"),
    [
        *((1, 5, 3, 3), (2, 3, 3, 1), (3, 200, 4, 5), (2, 1000, 8, 31), (1, 5000, 9, 129)),
        *((2, 1700, 70, 129), (1, 131, 70, 129), (1, 4700, 6, 33)),
    ],
)
def test_random(encoder: Implementation, batch: int, samples: int, filters: int, taps: int) -> None:
    check(encoder, problem(batch, samples, filters, taps))


def test_the_filters_of_the_model(encoder: Implementation) -> None:
    waveform, _, norm = problem(2, 4000, 3, 3)
    check(encoder, (0.1 * waveform, sinc_filters(70, 128).unsqueeze(1), norm))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(0, 3),
    filters=st.integers(3, 20),
    half=st.integers(0, 20),
    more=st.integers(0, 1700),
)
def test_any_size(encoder: Implementation, batch: int, filters: int, half: int, more: int) -> None:
    taps = 2 * half + 1
    check(encoder, problem(batch, taps + 2 + more, filters, taps))


def test_nan_and_infinity(encoder: Implementation) -> None:
    waveform, filters, norm = problem(2, 900, 9, 31)
    waveform[0, 400], waveform[1, 70] = torch.nan, torch.inf
    got = check(encoder, (waveform, filters, norm))
    assert got[0].isnan().any() and not got[0].isnan().all()


def test_without_a_normalisation(encoder: Implementation) -> None:
    waveform, filters, _ = problem(2, 900, 9, 31)
    got = encoder.front_end(waveform, filters, None)
    assert_near(got, front_end_reference(waveform.double(), filters.double()), TOLERANCE)


def test_silence_is_the_shift(encoder: Implementation) -> None:
    _, filters, norm = problem(1, 900, 9, 31)
    check(encoder, (torch.zeros(1, 900), filters, norm))


def test_samples_need_not_be_neighbours(encoder: Implementation) -> None:
    waveform, filters, norm = problem(4, 1800, 9, 31)
    check(encoder, (waveform[::2, ::2], filters, norm))


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
