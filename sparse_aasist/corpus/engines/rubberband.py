"""Rubber Band voice conversion: phase-vocoder pitch change of real speech (PyPI pylibrb)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.data.audio import SAMPLE_RATE_HZ


class RubberBand(Engine):
    """Shift a recording's pitch, with or without its formants, and stretch it a little."""

    kind = "voice conversion, phase vocoder"
    licence = "GPL-2.0+"
    modules = ("pylibrb",)

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._convert(request) for request in requests]

    def _convert(self, request: Request) -> Audio:
        import pylibrb
        from pylibrb import Option

        rng = np.random.default_rng(request.seed)
        # Two to five semitones up or down: always audibly another voice.
        semitones = rng.uniform(2.0, 5.0) * rng.choice((-1.0, 1.0))
        formants = Option.FORMANT_PRESERVED if rng.random() < 0.5 else Option.FORMANT_SHIFTED
        options = Option.PROCESS_OFFLINE | Option.THREADING_NEVER | formants
        stretcher = pylibrb.RubberBandStretcher(
            SAMPLE_RATE_HZ, 1, options, rng.uniform(0.95, 1.08), 2.0 ** (semitones / 12)
        )
        audio = np.ascontiguousarray(request.source, np.float32)[None, :]
        stretcher.set_max_process_size(audio.shape[1])
        stretcher.set_expected_input_duration(audio.shape[1])
        stretcher.study(audio, final=True)
        stretcher.process(audio, final=True)
        return stretcher.retrieve_available()[0].copy(), SAMPLE_RATE_HZ
