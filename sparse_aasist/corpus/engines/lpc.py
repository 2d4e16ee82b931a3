"""Linear-prediction vocoder: copy synthesis with a pulse or noise source, as in LPC-10.

Atal and Hanauer, "Speech analysis and synthesis by linear prediction of the speech wave", 1971.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.data.audio import SAMPLE_RATE_HZ

_ORDER, _WINDOW, _HOP, _PREEMPHASIS = 18, 400, 160, 0.95


class LinearPrediction(Engine):
    """Code a recording as 18 prediction coefficients, a gain and F0 a frame; synthesise it."""

    kind = "copy synthesis, linear prediction vocoder"
    licence = "MIT (part of this package; F0 by pyworld)"
    modules = ("pyworld", "scipy")

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._copy(request) for request in requests]

    def _copy(self, request: Request) -> Audio:
        import pyworld
        from scipy import signal

        rng = np.random.default_rng(request.seed)
        source = np.ascontiguousarray(request.source, np.float64)
        f0, _ = pyworld.dio(source, SAMPLE_RATE_HZ, frame_period=1000 * _HOP / SAMPLE_RATE_HZ)
        f0 = f0 * rng.uniform(0.95, 1.05)
        emphasised = signal.lfilter([1.0, -_PREEMPHASIS], [1.0], source)
        padded = np.pad(emphasised, (_WINDOW // 2, _WINDOW))
        frames = min(source.size // _HOP, f0.size)
        excitation = pulse_or_noise(f0[:frames], _HOP, rng)
        made = np.zeros(frames * _HOP)
        state = np.zeros(_ORDER)
        for index in range(frames):
            frame = padded[index * _HOP : index * _HOP + _WINDOW] * np.hanning(_WINDOW)
            predictor, gain = predict(frame)
            part = slice(index * _HOP, (index + 1) * _HOP)
            made[part], state = signal.lfilter([gain], predictor, excitation[part], zi=state)
        spoken = signal.lfilter([1.0], [1.0, -_PREEMPHASIS], made)
        return spoken.astype(np.float32), SAMPLE_RATE_HZ


def predict(frame: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the prediction-error filter (order + 1,) and the residual's RMS of one frame."""
    from scipy.linalg import solve_toeplitz

    correlation = np.correlate(frame, frame, mode="full")[frame.size - 1 : frame.size + _ORDER]
    # White-noise correction keeps the equations solvable in silence.
    correlation[0] = correlation[0] * 1.0001 + 1e-9
    coefficients = solve_toeplitz(correlation[:-1], correlation[1:])
    error = correlation[0] - coefficients @ correlation[1:]
    # 3/8: mean square of the Hann window.
    return np.concatenate([[1.0], -coefficients]), float(np.sqrt(max(error, 0) / (0.375 * _WINDOW)))


def pulse_or_noise(
    f0_hz: NDArray[np.float64], hop: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a source of unit power: pulses at F0 in voiced frames (F0 > 0), noise in others."""
    samples_hz = np.repeat(f0_hz, hop)
    turns = np.floor(np.cumsum(samples_hz) / SAMPLE_RATE_HZ)
    pulses = np.diff(turns, prepend=0.0) > 0
    voiced = samples_hz > 0
    height = np.sqrt(SAMPLE_RATE_HZ / np.where(voiced, samples_hz, 1.0))
    return np.where(voiced, pulses * height, rng.standard_normal(samples_hz.size))
