"""espeak-ng: formant synthesis in many languages and timbres (Debian espeak-ng)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.corpus.engines.programs import (
    find_program,
    library_folder,
    reason_not_running,
    run_program,
)


class Espeak(Engine):
    """Speak text as `espeak-ng -v LANGUAGE+VOICE` at a random rate and pitch."""

    kind = "formant synthesis"
    licence = "GPL-3+"
    debs = ("espeak-ng", "espeak-ng-data", "libespeak-ng1")

    def reason_unavailable(self) -> str | None:
        return reason_not_running(self.root, "espeak-ng", [*self._data(), "--version"])

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [self._say(request) for request in requests]

    def _say(self, request: Request) -> Audio | None:
        import soundfile

        rng = np.random.default_rng(request.seed)
        rate, pitch = rng.integers(130, 185), rng.integers(25, 75)
        language = {"en": "en-us"}.get(request.language, request.language)
        options = ["-v", f"{language}+{request.voice}", "-s", str(rate), "-p", str(pitch)]
        options += ["--stdout", request.text]
        command = [find_program(self.root, "espeak-ng") or "espeak-ng", *self._data(), *options]
        done = run_program(self.root, command)
        if done.returncode != 0 or not done.stdout:
            return None
        # Sent to a pipe, the WAV header holds no length: take the samples behind it.
        with soundfile.SoundFile(io.BytesIO(done.stdout[:44])) as header:
            rate_hz = header.samplerate
        samples = np.frombuffer(done.stdout[44:], np.int16)
        return samples.astype(np.float32) / 32768.0, rate_hz

    def _data(self) -> list[str]:
        libraries = library_folder(self.root) if self.root is not None else None
        return [f"--path={libraries}"] if libraries is not None else []
