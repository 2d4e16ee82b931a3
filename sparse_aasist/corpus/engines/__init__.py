"""The synthesizers and vocoders of the corpus, one per file; nothing heavy is imported here."""

from __future__ import annotations

from sparse_aasist.corpus.engines.base import Audio, Engine, Request
from sparse_aasist.corpus.engines.espeak import Espeak
from sparse_aasist.corpus.engines.festival import FestivalDiphone, FestivalHts
from sparse_aasist.corpus.engines.flite import Flite
from sparse_aasist.corpus.engines.griffin_lim import GriffinLim
from sparse_aasist.corpus.engines.hibari import Hibari
from sparse_aasist.corpus.engines.kokoro import Kokoro
from sparse_aasist.corpus.engines.lpc import LinearPrediction
from sparse_aasist.corpus.engines.mlsa import Mlsa
from sparse_aasist.corpus.engines.piper import Piper
from sparse_aasist.corpus.engines.praat import Praat
from sparse_aasist.corpus.engines.rubberband import RubberBand
from sparse_aasist.corpus.engines.world import World

__all__ = ["ENGINES", "Audio", "Engine", "Request"]

ENGINES: dict[str, type[Engine]] = {
    "espeak": Espeak,
    "festival": FestivalDiphone,
    "world": World,
    "piper": Piper,
    "flite": Flite,
    "lpc": LinearPrediction,
    "hts": FestivalHts,
    "praat": Praat,
    "griffin_lim": GriffinLim,
    "hibari": Hibari,
    "rubberband": RubberBand,
    "kokoro": Kokoro,
    "mlsa": Mlsa,
}
