"""What every synthesizer of the corpus offers: its packages, its licence, and speech on request."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Audio = tuple[NDArray[np.float32], int]


@dataclass(frozen=True)
class Request:
    """One clip to make: a sentence to speak in a voice, or a recording to re-synthesise.

    seed draws everything random about the clip; source is 16 kHz mono speech for engines that
    change a recording, None for engines that speak text.
    """

    seed: int
    voice: str = ""
    language: str = "en"
    text: str = ""
    source: NDArray[np.float32] | None = None


class Engine(ABC):
    """A synthesizer or vocoder: one attack of the corpus.

    Attributes:
        kind: how it makes speech, for the manifest.
        licence: of engine and voices.
        debs: Debian packages it is unpacked from.
        modules: Python modules it imports.
        extra: the extra of this package that brings them.
        batch: requests to hand over at once; the fixed unit of work, so that the result never
            depends on which worker runs what.
    """

    kind: str
    licence: str
    debs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    extra: str = "corpus"
    batch: int = 20

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    def reason_unavailable(self) -> str | None:
        """Return why the engine cannot run here, or None when it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except Exception as error:
                # A wheel for another platform fails with more than ImportError.
                return (
                    f"Python module {module} cannot be imported ({error}); "
                    f"pip install 'sparse-aasist[{self.extra}]'"
                )
        return None

    @abstractmethod
    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        """Return one (waveform, sample rate in Hz) per request, None where it failed.

        Args:
            requests: at most `batch` requests.
            seed: of the batch, for engines whose randomness has no per-clip seed.
        """
