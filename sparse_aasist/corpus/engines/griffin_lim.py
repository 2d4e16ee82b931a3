"""Griffin-Lim copy synthesis from mel bands: phase found by iteration.

Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984; the fast
form with momentum of Perraudin et al., 2013.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.data.audio import SAMPLE_RATE_HZ

_WINDOW, _HOP, _MELS, _ITERATIONS, _MOMENTUM = 1024, 256, 80, 32, 0.99


class GriffinLim(Engine):
    """Reduce a recording to 80 mel magnitudes a frame and rebuild waveform and phase from them."""

    kind = "copy synthesis, iterative phase reconstruction"
    licence = "MIT (part of this package)"
    modules = ("scipy",)

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._copy(request) for request in requests]

    def _copy(self, request: Request) -> Audio:
        rng = np.random.default_rng(request.seed)
        source = np.asarray(request.source, np.float64)
        filters = mel_filters(_MELS, _WINDOW, SAMPLE_RATE_HZ)
        mels = filters @ np.abs(_stft(source))
        magnitude = np.maximum(np.linalg.pinv(filters) @ mels, 0.0)
        estimate = magnitude * np.exp(2j * np.pi * rng.random(magnitude.shape))
        previous = np.zeros_like(estimate)
        for _ in range(_ITERATIONS):
            consistent = _stft(_istft(estimate, source.size))
            accelerated = consistent + _MOMENTUM * (consistent - previous)
            previous = consistent
            estimate = magnitude * np.exp(1j * np.angle(accelerated))
        return _istft(estimate, source.size).astype(np.float32), SAMPLE_RATE_HZ


def mel_filters(bands: int, window: int, rate_hz: int) -> NDArray[np.float64]:
    """Return triangular filters, evenly spaced on the mel scale: (bands, window / 2 + 1)."""
    edges_mel = np.linspace(0.0, 2595 * np.log10(1 + rate_hz / 2 / 700), bands + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    bins_hz = np.linspace(0.0, rate_hz / 2, window // 2 + 1)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(np.minimum(rising, falling), 0.0)


def _stft(waveform: NDArray[np.float64]) -> NDArray[np.complex128]:
    padded = np.pad(waveform, (_WINDOW, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    return np.fft.rfft(frames * np.hanning(_WINDOW + 1)[:-1], axis=1).T


def _istft(spectrum: NDArray[np.complex128], samples: int) -> NDArray[np.float64]:
    window = np.hanning(_WINDOW + 1)[:-1]
    frames = np.fft.irfft(spectrum.T, _WINDOW, axis=1) * window
    total = np.zeros(frames.shape[0] * _HOP + _WINDOW)
    # Windows a quarter apart: add the quarters of all frames at once.
    weight = np.zeros_like(total)
    for quarter in range(_WINDOW // _HOP):
        part = slice(quarter * _HOP, (quarter + 1) * _HOP)
        into = slice(quarter * _HOP, (quarter + frames.shape[0]) * _HOP)
        total[into] += frames[:, part].ravel()
        weight[into] += np.tile(np.square(window[part]), frames.shape[0])
    return (total / np.maximum(weight, 1e-3))[_WINDOW : _WINDOW + samples]
