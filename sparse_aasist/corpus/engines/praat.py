"""Praat voice conversion: PSOLA pitch change with a formant shift (PyPI praat-parselmouth)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.data.audio import SAMPLE_RATE_HZ


class Praat(Engine):
    """Change formants, median pitch, pitch range and duration of a recording ("Change gender")."""

    kind = "voice conversion, PSOLA and formant shift"
    licence = "GPL-3.0+"
    modules = ("parselmouth",)

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._convert(request) for request in requests]

    def _convert(self, request: Request) -> Audio | None:
        import parselmouth
        from parselmouth.praat import call, run

        rng = np.random.default_rng(request.seed)
        # Praat's resynthesis draws on its own generator, seeded by the clock until told otherwise.
        run(f"random_initializeWithSeedUnsafelyButPredictably({rng.integers(1, 2**31)})")
        sound = parselmouth.Sound(np.asarray(request.source, np.float64), SAMPLE_RATE_HZ)
        pitch = call(sound, "To Pitch", 0.0, 75, 500)
        median_hz = call(pitch, "Get quantile", 0, 0, 0.5, "Hertz")
        if not np.isfinite(median_hz):
            return None
        # Away from no change, up or down, so that every clip is converted.
        up = rng.random() < 0.5
        formants = rng.uniform(1.08, 1.2) if up else rng.uniform(0.83, 0.93)
        pitch_factor = rng.uniform(1.1, 1.5) if up else rng.uniform(0.68, 0.9)
        made = call(sound, "Change gender", 75, 500, formants, median_hz * pitch_factor, 1.0, 1.0)
        return made.values[0].astype(np.float32), int(made.sampling_frequency)
