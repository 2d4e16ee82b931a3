"""A recording of any kind as a model hears it, with a record of what was done to it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.data.audio import SAMPLE_RATE_HZ, first_crop, load_audio


@dataclass(frozen=True)
class Recording:
    """What a file held and what a model hears of it.

    rate_hz, channels: of the file.
    duration_s: of the whole file, in seconds.
    heard_s: length that the model gets, in seconds; shorter audio is repeated.
    is_silent: whether all of what is heard is digital silence.
    """

    rate_hz: int
    channels: int
    duration_s: float
    heard_s: float
    is_silent: bool

    def notes(self) -> list[str]:
        """Return what was done, a phrase for each step."""
        notes = [f"{self.duration_s:.2f} s"]
        if self.rate_hz != SAMPLE_RATE_HZ:
            notes.append(f"resampled from {self.rate_hz} Hz to {SAMPLE_RATE_HZ} Hz")
        if self.channels > 1:
            notes.append(f"{self.channels} channels averaged")
        if self.duration_s > self.heard_s:
            cut = self.duration_s - self.heard_s
            notes.append(f"the first {self.heard_s:.2f} s are heard, {cut:.2f} s are not")
        elif self.duration_s < self.heard_s:
            notes.append(f"repeated to {self.heard_s:.2f} s")
        if self.is_silent:
            notes.append("all of what is heard is digital silence: the score means nothing")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the notes for JSON."""
        return {**asdict(self), "notes": self.notes()}


def read_recording(
    path: str | os.PathLike[str], samples: int
) -> tuple[NDArray[np.float32], Recording]:
    """Decode an audio file and cut or repeat it to what a model hears.

    Args:
        path: as for `load_audio`.
        samples: that the model hears, at 16 kHz.

    Returns:
        float32 (samples,) at 16 kHz, and the record.

    Raises:
        AudioError: the file cannot be used; names it.
    """
    import soundfile

    waveform = load_audio(path)
    source = soundfile.info(path)
    heard = first_crop(waveform, samples)
    return heard, Recording(
        rate_hz=source.samplerate,
        channels=source.channels,
        duration_s=waveform.size / SAMPLE_RATE_HZ,
        heard_s=samples / SAMPLE_RATE_HZ,
        is_silent=not heard.any(),
    )
