"""flite: statistical parametric synthesis from cluster trees (Debian flite)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.corpus.engines.programs import find_program, reason_not_running, run_program


class Flite(Engine):
    """Speak English text with a clustergen voice (awb, rms, slt) at a random rate and pitch."""

    kind = "statistical parametric synthesis (clustergen)"
    licence = "BSD-like"
    debs = ("flite", "libflite1")

    def reason_unavailable(self) -> str | None:
        # --version prints and exits with 1; listing the voices exits with 0.
        return reason_not_running(self.root, "flite", ["-lv"])

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        with tempfile.TemporaryDirectory() as folder:
            return [self._say(request, Path(folder) / "clip.wav") for request in requests]

    def _say(self, request: Request, path: Path) -> Audio | None:
        import soundfile

        rng = np.random.default_rng(request.seed)
        stretch, shift = rng.uniform(0.88, 1.15), rng.uniform(0.92, 1.1)
        options = ["-voice", request.voice, "--setf", f"duration_stretch={stretch:.3f}"]
        options += ["--setf", f"f0_shift={shift:.3f}", "-t", request.text, "-o", str(path)]
        path.unlink(missing_ok=True)
        done = run_program(self.root, [find_program(self.root, "flite") or "flite", *options])
        if done.returncode != 0 or not path.is_file():
            return None
        return soundfile.read(path, dtype="float32")
