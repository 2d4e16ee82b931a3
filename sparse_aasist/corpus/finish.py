"""The one path every clip of both classes takes from raw audio to the corpus.

Bandwidth, level, silence, codec and length must not give the class away: each step treats bona
fide and spoof alike, and `shortcuts.py` measures the outcome.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.data.audio import SAMPLE_RATE_HZ
from sparse_aasist.errors import AudioError

Waveform = NDArray[np.float32]

MIN_LENGTH_S = 1.6
MAX_LENGTH_S = 6.0
# Cut from each end of every clip, so that all of them begin and end within speech.
MARGIN_S = 0.12
MIN_RAW_S = MIN_LENGTH_S + 2 * MARGIN_S + 0.1
FRAME_SAMPLES = 320
SPEECH_BELOW_PEAK_DB = 30.0
BAND_LIMIT_HZ = 5600
PAUSE_LEVEL_DB = (-45.0, -35.0)
RMS_DBFS = (-30.0, -20.0)
CODECS = ("vorbis", "g722")
_MAX_PEAK = 0.98


def to_speech(waveform: NDArray, rate_hz: int) -> Waveform:
    """Bring raw audio to 16 kHz, remove rumble below 60 Hz, trim non-speech, set the peak to 0.7.

    Args:
        waveform: (samples,) or (samples, channels), any float or int16 scale.
        rate_hz: its sample rate.

    Returns:
        float32 (samples,) at 16 kHz, at most MAX_LENGTH_S + 1 s long.

    Raises:
        AudioError: nothing but silence or non-finite samples.
    """
    import soxr
    from scipy import signal

    mono = np.asarray(waveform, np.float32)
    mono = mono.mean(axis=1) if mono.ndim == 2 else mono
    if mono.size < FRAME_SAMPLES * 4 or not np.isfinite(mono).all():
        raise AudioError("a clip is shorter than 80 ms or holds non-finite samples; leave it out")
    if rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    rumble = signal.butter(4, 60, "high", fs=SAMPLE_RATE_HZ, output="sos")
    # Without its offset first: a step at the start would ring like speech.
    mono = signal.sosfilt(rumble, mono - mono.mean()).astype(np.float32)
    speech = np.flatnonzero(_is_speech(mono))
    if speech.size == 0:
        raise AudioError("a clip holds no speech; leave it out")
    first = speech[0] * FRAME_SAMPLES
    last = min((speech[-1] + 1) * FRAME_SAMPLES, first + int((MAX_LENGTH_S + 1) * SAMPLE_RATE_HZ))
    trimmed = mono[first:last]
    return (0.7 / np.abs(trimmed).max()) * trimmed


def pause_level_db(waveform: Waveform) -> float:
    """Return the level of the quietest frames (4th percentile) relative to the RMS, in dB."""
    level = _frame_db(waveform)
    rms_db = 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12)
    return float(np.percentile(level, 4) - rms_db)


def equal_lengths(
    bonafide_samples: Sequence[int], spoof_samples: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return target lengths that give both classes one length distribution.

    The clip of rank q in its class gets min(Q_bonafide(q), Q_spoof(q)) - 2 margins, so no target
    exceeds what its clip holds.

    Args:
        bonafide_samples: raw speech lengths of the bona fide clips of one partition.
        spoof_samples: those of its spoof clips.

    Returns:
        target lengths in samples, in the order of the arguments.
    """
    if not bonafide_samples or not spoof_samples:
        return _clip_lengths(bonafide_samples), _clip_lengths(spoof_samples)
    targets = []
    for own, other in ((bonafide_samples, spoof_samples), (spoof_samples, bonafide_samples)):
        own_array = np.asarray(own)
        ranks = (np.argsort(np.argsort(own_array, kind="stable")) + 0.5) / own_array.size
        shorter = np.minimum(own_array, np.quantile(np.asarray(other), ranks, method="linear"))
        targets.append(_clip_lengths(shorter.astype(int).tolist()))
    return targets[0], targets[1]


def finish_clip(speech: Waveform, length_samples: int, rng: np.random.Generator) -> Waveform:
    """Cut, code, band-limit, fill the pauses and level one clip: the path of both classes.

    Args:
        speech: (samples,) from `to_speech`, at least `length_samples` + 2 margins long.
        length_samples: length to cut, from `equal_lengths`.
        rng: the clip's own generator: cut, codec, pause level and level are drawn from it.

    Returns:
        float32 (about `length_samples`,): both ends lie in speech.
    """
    from scipy import signal

    clip = _cut_onto_speech(speech, length_samples, rng)
    clip = code(clip, CODECS[int(rng.integers(len(CODECS)))])
    clip = signal.fftconvolve(clip, _band_limit(), mode="same")
    clip = clip + _pause_noise(clip, rng.uniform(*PAUSE_LEVEL_DB), rng)
    clip -= clip.mean()
    rms = np.sqrt(np.mean(np.square(clip)))
    gain = 10 ** (rng.uniform(*RMS_DBFS) / 20) / rms
    return (min(gain, _MAX_PEAK / np.abs(clip).max()) * clip).astype(np.float32)


def code(clip: Waveform, codec: str) -> Waveform:
    """Send a clip through one of the codecs the recordings came in; the length stays.

    Args:
        clip: float32 (samples,) at 16 kHz.
        codec: "vorbis" (22.05 kHz) or "g722" (64 kbit/s).
    """
    import soundfile
    import soxr
    from G722 import G722

    if codec == "g722":
        coder = G722(SAMPLE_RATE_HZ, 64_000)
        even = clip[: clip.size // 2 * 2]
        coded = coder.encode(np.round(even * 32767).astype(np.int16))
        decoded = np.asarray(G722(SAMPLE_RATE_HZ, 64_000).decode(coded), np.float32) / 32768.0
        return decoded[: clip.size]
    buffer = io.BytesIO()
    rate_hz = 22_050
    resampled = soxr.resample(clip, SAMPLE_RATE_HZ, rate_hz, quality="HQ")
    soundfile.write(buffer, resampled, rate_hz, format="OGG", subtype="VORBIS")
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    return soxr.resample(decoded, rate_hz, SAMPLE_RATE_HZ, quality="HQ")[: clip.size]


def _cut_onto_speech(speech: Waveform, length_samples: int, rng: np.random.Generator) -> Waveform:
    """Cut about `length_samples` whose first and last frame are speech, inside the margins."""
    margin = int(MARGIN_S * SAMPLE_RATE_HZ)
    room = max(speech.size - 2 * margin - length_samples, 0)
    start = margin + int(rng.integers(0, room, endpoint=True))
    stop = min(start + length_samples, speech.size)
    active = np.flatnonzero(_is_speech(speech, below_peak_db=SPEECH_BELOW_PEAK_DB - 5))
    first = active[active * FRAME_SAMPLES >= start]
    last = active[(active + 1) * FRAME_SAMPLES <= stop]
    if first.size and last.size and last[-1] > first[0]:
        start, stop = first[0] * FRAME_SAMPLES, (last[-1] + 1) * FRAME_SAMPLES
    return speech[start:stop]


def _pause_noise(
    clip: NDArray, pause_level_target_db: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return band-limited pink noise that lifts the quietest frames to the wanted level."""
    from scipy import signal

    spectrum = np.fft.rfft(rng.standard_normal(clip.size))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1))
    pink = signal.fftconvolve(np.fft.irfft(spectrum, clip.size), _band_limit(), mode="same")
    rms = np.sqrt(np.mean(np.square(clip, dtype=np.float64)))
    wanted = (rms * 10 ** (pause_level_target_db / 20)) ** 2
    present = (rms * 10 ** (pause_level_db(clip) / 20)) ** 2
    return np.sqrt(max(wanted - present, 0.0) / np.mean(np.square(pink))) * pink


def _is_speech(
    waveform: Waveform, below_peak_db: float = SPEECH_BELOW_PEAK_DB
) -> NDArray[np.bool_]:
    level = _frame_db(waveform)
    # The loudest frames set the scale; their 95th percentile forgives a click.
    return level > max(np.percentile(level, 95) - below_peak_db, -70.0)


def _frame_db(waveform: NDArray) -> NDArray[np.float64]:
    frames = waveform.size // FRAME_SAMPLES
    framed = waveform[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES)
    return 10 * np.log10(np.mean(np.square(framed, dtype=np.float64), axis=1) + 1e-12)


def _clip_lengths(raw_samples: Sequence[int]) -> list[int]:
    margins = int(2 * MARGIN_S * SAMPLE_RATE_HZ)
    longest = int(MAX_LENGTH_S * SAMPLE_RATE_HZ)
    return [min(int(samples) - margins, longest) for samples in raw_samples]


@lru_cache(maxsize=1)
def _band_limit() -> NDArray[np.float64]:
    from scipy import signal

    return signal.firwin(255, BAND_LIMIT_HZ, fs=SAMPLE_RATE_HZ)
