"""festival: diphone and HMM voices (Debian festival, festvox-*).

The packages are used from where they were unpacked: library folder, lexica and voices are given
on the command line, and the Czech voices, which name absolute paths, by their own variables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.corpus.engines.programs import find_program, reason_not_running, run_program

_ENCODINGS = {"it": "latin-1", "ca": "latin-1", "cs": "iso8859-2", "en": "latin-1"}
_CZECH = {"czech_dita": "dita", "czech_machac": "machac", "czech_ph": "ph"}


class _Festival(Engine):
    """Speak text with a festival voice at a random rate; one process per voice and batch."""

    licence = "BSD-like (festival); voices: see their packages"
    debs = ("festival", "festlex-poslex", "festlex-cmu")

    def reason_unavailable(self) -> str | None:
        return reason_not_running(self.root, "festival", ["--version"])

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        spoken: list[Audio | None] = []
        for voice, group in groupby(requests, key=lambda request: request.voice):
            with tempfile.TemporaryDirectory() as folder:
                spoken += self._say_all(voice, list(group), Path(folder))
        return spoken

    def _say_all(self, voice: str, requests: list[Request], folder: Path) -> list[Audio | None]:
        import soundfile

        script = folder / "speak.scm"
        language = requests[0].language
        lines = [*self._czech_paths(voice), f"(voice_{voice})"]
        for index, request in enumerate(requests):
            stretch = np.random.default_rng(request.seed).uniform(0.85, 1.15)
            text = request.text.replace("\\", " ").replace('"', " ")
            lines += [
                f"(Parameter.set 'Duration_Stretch {stretch:.3f})",
                f"(set! utt (utt.synth (eval (list 'Utterance 'Text \"{text}\"))))",
                f'(utt.save.wave utt "{folder / f"{index}.wav"}")',
            ]
        script.write_text("\n".join(lines) + "\n", encoding=_ENCODINGS[language], errors="replace")
        program = find_program(self.root, "festival") or "festival"
        # The Czech lexicon is looked for in the working directory.
        data = self.root / "usr/share/festival" if self.root is not None else folder
        run_program(self.root, [program, *self._folders(), "-b", str(script)], folder=data)
        paths = [folder / f"{index}.wav" for index in range(len(requests))]
        return [soundfile.read(path, dtype="float32") if path.is_file() else None for path in paths]

    def _folders(self) -> list[str]:
        if self.root is None:
            return []
        data = str(self.root / "usr/share/festival")
        return ["--libdir", data, "--datadir", data]

    def _czech_paths(self, voice: str) -> list[str]:
        if self.root is None or voice not in _CZECH:
            return []
        short = _CZECH[voice]
        index = self.root / f"usr/share/festival/voices/czech/{voice}/group/{short}.group"
        return [f'(set! czech-{short}-unisyn-index "{index}")']


class FestivalDiphone(_Festival):
    """Diphone voices in English, Italian and Czech: residual-excited LPC."""

    kind = "diphone concatenation, LPC residual"
    debs = (
        *_Festival.debs,
        "festvox-kallpc16k",
        "festvox-kdlpc16k",
        "festlex-ifd",
        "festvox-italp16k",
        "festvox-itapc16k",
        "festival-czech",
        "festvox-czech-dita",
        "festvox-czech-machac",
        "festvox-czech-ph",
    )


class FestivalHts(_Festival):
    """The Catalan HTS voice: hidden Markov models and a mel-cepstral vocoder."""

    kind = "HMM synthesis with MLSA-type vocoder"
    debs = (*_Festival.debs, "festival-ca", "festvox-ca-ona-hts")
