"""WORLD copy synthesis: F0, coded spectral envelope and aperiodicity (PyPI pyworld-prebuilt)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.data.audio import SAMPLE_RATE_HZ

_CODED_DIMENSIONS = 40


class World(Engine):
    """Analyse a recording, code its envelope in 40 numbers a frame, and synthesise it again."""

    kind = "copy synthesis, source-filter vocoder"
    licence = "MIT (pyworld), BSD-3-Clause (WORLD)"
    modules = ("pyworld",)

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._copy(request) for request in requests]

    def _copy(self, request: Request) -> Audio:
        import pyworld

        rng = np.random.default_rng(request.seed)
        source = np.ascontiguousarray(request.source, np.float64)
        rate_hz = SAMPLE_RATE_HZ
        f0, times = pyworld.dio(source, rate_hz)
        f0 = pyworld.stonemask(source, f0, times, rate_hz)
        envelope = pyworld.cheaptrick(source, f0, times, rate_hz)
        aperiodicity = pyworld.d4c(source, f0, times, rate_hz)
        fft_size = 2 * (envelope.shape[1] - 1)
        coded = pyworld.code_spectral_envelope(envelope, rate_hz, _CODED_DIMENSIONS)
        envelope = pyworld.decode_spectral_envelope(coded, rate_hz, fft_size)
        f0 = f0 * rng.uniform(0.93, 1.07)
        made = pyworld.synthesize(f0, envelope, aperiodicity, rate_hz)
        return made.astype(np.float32), rate_hz
