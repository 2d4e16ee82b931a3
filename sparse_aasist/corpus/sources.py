"""Recorded human speech in Debian packages: who speaks, where the files lie, how they are read.

Speakers were told apart by name in the packages' own notes, by F0 and by a speaker-verification
model; sources that sound alike, 8 kHz recordings and single words are left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.data.audio import SAMPLE_RATE_HZ, load_audio
from sparse_aasist.errors import AudioError

_FISH = "usr/share/games/fillets-ng/sound"
_PROMPTS = "usr/share/asterisk/sounds"
_STAMPS = "usr/share/tuxpaint/stamps"
_FESTVOX_RU = "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav"

LICENCES = {
    "fillets-ng-data-cs": "GPL-2",
    "fillets-ng-data-nl": "GPL-2",
    "asterisk-core-sounds-en-g722": "CC-BY-SA-3.0",
    "asterisk-core-sounds-es-g722": "CC-BY-SA-3.0",
    "asterisk-core-sounds-fr-g722": "CC-BY-SA-3.0",
    "asterisk-core-sounds-it-g722": "CC-BY-3.0",
    "asterisk-core-sounds-ru-g722": "CC-BY-3.0",
    "tuxpaint-stamps-default": "GPL-2",
    "festvox-ru": "BSD-like",
}


@dataclass(frozen=True)
class Speaker:
    """One human speaker: `patterns` maps a Debian package to a glob of recordings in it."""

    name: str
    gender: str
    languages: str
    patterns: tuple[tuple[str, str], ...]

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(package for package, _ in self.patterns)


def _fish(language: str, role: str, gender: str) -> Speaker:
    pattern = f"{_FISH}/*/{language}/*-{role}-*.ogg"
    package = f"fillets-ng-data-{language}"
    return Speaker(f"fish_{language}_{role}", gender, language, ((package, pattern),))


def _prompts(name: str, gender: str, *folders: str) -> Speaker:
    languages = [folder[:2] for folder in folders]
    patterns = tuple(
        (f"asterisk-core-sounds-{language}-g722", f"{_PROMPTS}/{folder}/**/*.g722")
        for language, folder in zip(languages, folders, strict=True)
    )
    return Speaker(name, gender, "+".join(languages), patterns)


def _stamps(language: str, gender: str) -> Speaker:
    pattern = f"{_STAMPS}/**/*_{language}.ogg"
    return Speaker(f"stamps_{language}", gender, language, (("tuxpaint-stamps-default", pattern),))


SPEAKERS = {
    speaker.name: speaker
    for speaker in (
        _fish("cs", "v", "M"),
        _fish("cs", "m", "F"),
        _fish("nl", "v", "M"),
        _fish("nl", "m", "F"),
        # One woman recorded both the English and the Spanish prompts.
        _prompts("allison", "F", "en_US_f_Allison", "es_MX_f_Allison"),
        _prompts("wallack", "F", "fr_CA_f_June"),
        _prompts("flora", "M", "it_IT_m_Carlo"),
        _prompts("topal", "F", "ru_RU_f_IvrvoiceRU"),
        _stamps("es", "M"),
        _stamps("bg", "M"),
        _stamps("be", "M"),
        _stamps("el", "M"),
        _stamps("ca", "M"),
        _stamps("ro", "F"),
        _stamps("ru", "M"),
        Speaker("shmyrev", "M", "ru", (("festvox-ru", f"{_FESTVOX_RU}/*.wav"),)),
    )
}


def list_recordings(speaker: Speaker, roots: dict[str, Path]) -> list[str]:
    """Return a speaker's recordings as `package:path` in an order fixed by a hash of the name.

    Args:
        speaker: entry of SPEAKERS.
        roots: Debian package -> folder it was unpacked into.
    """
    found = [
        f"{package}:{path.relative_to(roots[package]).as_posix()}"
        for package, pattern in speaker.patterns
        if package in roots
        for path in roots[package].glob(pattern)
    ]
    return sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())


def read_recording(name: str, roots: dict[str, Path]) -> NDArray[np.float32]:
    """Decode one recording of `list_recordings` to 16 kHz mono float32 (samples,).

    Raises:
        AudioError: the file cannot be decoded or is empty.
    """
    package, relative = name.split(":", 1)
    path = roots[package] / relative
    if path.suffix != ".g722":
        return load_audio(path)
    from G722 import G722

    waveform = np.asarray(G722(SAMPLE_RATE_HZ, 64_000).decode(path.read_bytes()), np.float32)
    if waveform.size == 0:
        raise AudioError(f"{path} is an empty file; delete the cache and build again")
    return waveform / 32768.0


def recording_length_s(name: str, roots: dict[str, Path]) -> float:
    """Return a recording's length from its header, 0 where it cannot be read."""
    import soundfile

    package, relative = name.split(":", 1)
    path = roots[package] / relative
    if path.suffix == ".g722":
        return path.stat().st_size / 8000
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return 0.0
