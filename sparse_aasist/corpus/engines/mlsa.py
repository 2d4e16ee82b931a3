"""SPTK copy synthesis: mel-cepstrum, pulse or noise source, MLSA filter (PyPI pysptk).

pysptk is a source package (it needs a C compiler and setuptools < 81): in the full corpus only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.corpus.engines.lpc import pulse_or_noise
from sparse_aasist.data.audio import SAMPLE_RATE_HZ

_ORDER, _ALPHA, _WINDOW, _HOP = 24, 0.42, 512, 80


class Mlsa(Engine):
    """Code a recording as 25 mel-cepstral coefficients and F0 a frame; synthesise it again."""

    kind = "copy synthesis, MLSA vocoder"
    licence = "MIT (pysptk), BSD-3-Clause (SPTK)"
    modules = ("pysptk",)
    extra = "corpus-full"

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._copy(request) for request in requests]

    def _copy(self, request: Request) -> Audio:
        import pysptk
        from pysptk.synthesis import MLSADF, Synthesizer

        # SPTK works on the scale of 16-bit samples.
        source = np.asarray(request.source, np.float64) * 32768.0
        padded = np.pad(source, _WINDOW // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
        windowed = np.ascontiguousarray(frames * pysptk.blackman(_WINDOW))
        cepstrum = pysptk.mcep(windowed, _ORDER, _ALPHA, etype=1, eps=1.0)
        f0 = pysptk.swipe(source, SAMPLE_RATE_HZ, _HOP, min=60, max=400, otype="f0")
        count = min(len(f0), len(cepstrum))
        # SPTK's own source keeps a state between calls; ours depends on the clip alone.
        excitation = pulse_or_noise(f0[:count], _HOP, np.random.default_rng(request.seed))
        filters = np.ascontiguousarray(pysptk.mc2b(cepstrum[:count], _ALPHA))
        made = Synthesizer(MLSADF(_ORDER, _ALPHA), _HOP).synthesis(excitation, filters)
        return (made / 32768.0).astype(np.float32), SAMPLE_RATE_HZ
