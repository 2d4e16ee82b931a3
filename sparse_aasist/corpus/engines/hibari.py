"""hibari: a small neural synthesizer distilled from Kokoro, voice "heart" (PyPI hibari-tts)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request


class Hibari(Engine):
    """Speak English text with the voice that the wheel carries, at a random speed."""

    kind = "neural, inverse STFT with noise"
    licence = "Apache-2.0"
    modules = ("hibari", "onnxruntime")

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        import hibari

        synthesizer = hibari.Hibari(voice="heart", threads=1)
        made: list[Audio | None] = []
        for request in requests:
            speed = float(np.random.default_rng(request.seed).uniform(0.85, 1.15))
            waveform = synthesizer(request.text, speed=speed, seed=request.seed)
            made.append((waveform, synthesizer.sample_rate) if waveform.size else None)
        return made
