"""Audio files to 16 kHz mono float32, with every fault named, and the crops models are fed.

Crop and repeat padding follow the official ASVspoof5 AASIST baseline
(asvspoof-challenge/asvspoof5: Baseline-AASIST/data_utils.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.errors import AudioError

SAMPLE_RATE_HZ = 16_000

Waveform = NDArray[np.float32]

# WAV and AIFF: libsndfile shortens a truncated file without an error and only logs the fact.
_SHORT_CHUNK = re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
# Programs that write WAV to a pipe cannot know its length and put a number about this large.
_UNKNOWN_LENGTH_BYTES = 0x7FFF0000


def read_trial_audio(path: str | os.PathLike[str]) -> Waveform:
    """Read one trial of a corpus as it is: 16 kHz, mono, complete and finite, or an error.

    Args:
        path: audio file, FLAC in the released corpora.

    Returns:
        float32 (samples,), in [-1, 1] for integer formats; no normalisation.

    Raises:
        AudioError: the file is missing, empty, truncated or corrupt, has another sample rate or
            several channels, or holds NaN or infinite samples; names the file.
    """
    samples, rate_hz = _decode(Path(path))
    if rate_hz != SAMPLE_RATE_HZ:
        raise AudioError(
            f"{path} has a sample rate of {rate_hz} Hz, {SAMPLE_RATE_HZ} Hz expected; resample it "
            f"(sox IN -r {SAMPLE_RATE_HZ} OUT), a wrong rate spoils the scores silently"
        )
    if samples.shape[1] != 1:
        raise AudioError(
            f"{path} has {samples.shape[1]} channels, 1 expected; mix it down to mono "
            "(sox IN -c 1 OUT)"
        )
    return samples[:, 0]


def load_audio(path: str | os.PathLike[str]) -> Waveform:
    """Load any audio file: decode, average the channels, resample to 16 kHz.

    Ogg and raw streams do not carry their length, so a truncated one is only shorter.

    Args:
        path: file in a format libsndfile decodes (FLAC, WAV, MP3, Ogg, ...).

    Returns:
        float32 (samples,) at 16 kHz.

    Raises:
        AudioError: the file is missing, empty, truncated, not decodable, or holds NaN or infinite
            samples; names the file.

    Source: resampling by libsoxr, quality HQ.
    """
    import soxr

    samples, rate_hz = _decode(Path(path))
    waveform = samples.mean(axis=1, dtype=np.float32)
    if rate_hz == SAMPLE_RATE_HZ:
        return waveform
    resampled = soxr.resample(waveform, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    if resampled.size == 0:
        raise AudioError(
            f"{path} is shorter than one sample at {SAMPLE_RATE_HZ} Hz; give a longer recording"
        )
    return resampled


def first_crop(waveform: Waveform, samples: int) -> Waveform:
    """Return the first `samples` samples, the whole utterance repeated when it is shorter.

    Args:
        waveform: (length,), length >= 1.
        samples: wanted length, >= 1.

    Returns:
        (samples,), a view where no padding is needed.

    Raises:
        AudioError: the waveform is empty or not one-dimensional, or samples < 1.
    """
    _check_crop(waveform, samples)
    if waveform.size >= samples:
        return waveform[:samples]
    return np.tile(waveform, -(-samples // waveform.size))[:samples]


def random_crop(waveform: Waveform, samples: int, rng: np.random.Generator) -> Waveform:
    """Return `samples` consecutive samples from a uniformly random start; pad as `first_crop`.

    Every start from 0 to length - samples is equally likely.

    DEVIATION: the official baseline excludes the last start, so it fails on a waveform of exactly
    `samples` samples and never reaches the last one; tests/test_audio.py covers both.

    Args:
        waveform: (length,), length >= 1.
        samples: wanted length, >= 1.
        rng: the generator to draw from; used only when there is a choice.

    Returns:
        (samples,), a view where no padding is needed.

    Raises:
        AudioError: the waveform is empty or not one-dimensional, or samples < 1.
    """
    _check_crop(waveform, samples)
    if waveform.size <= samples:
        return first_crop(waveform, samples)
    start = int(rng.integers(0, waveform.size - samples, endpoint=True))
    return waveform[start : start + samples]


def _check_crop(waveform: Waveform, samples: int) -> None:
    if waveform.ndim != 1 or waveform.size == 0:
        raise AudioError(
            f"waveform has shape {waveform.shape}; give one channel with at least one sample"
        )
    if samples < 1:
        raise AudioError(f"samples is {samples}; the crop must have at least one sample")


def _decode(path: Path) -> tuple[Waveform, int]:
    """Decode a whole file to (samples, channels) and its rate, or say what is wrong with it."""
    import soundfile

    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise AudioError(f"{path} {fault}; give the path of an audio file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is an empty file (0 bytes); copy or download it again")
    try:
        with soundfile.SoundFile(path) as audio:
            declared, rate_hz, log = audio.frames, audio.samplerate, audio.extra_info
            samples = audio.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(
            f"{path} cannot be decoded, it is truncated, corrupt or no audio file ({error}); copy "
            "or download it again, or convert it to FLAC"
        ) from error
    short = _SHORT_CHUNK.search(log)
    if short and int(short[2]) < int(short[1]) < _UNKNOWN_LENGTH_BYTES:
        raise AudioError(
            f"{path} is truncated: {short[2]} of {short[1]} bytes of samples are there; copy or "
            "download it again"
        )
    # Some versions of libsndfile end a truncated FLAC or MP3 early without an error.
    if len(samples) < declared:
        raise AudioError(
            f"{path} is truncated: {len(samples)} of {declared} samples could be decoded; copy or "
            "download it again"
        )
    if len(samples) == 0:
        raise AudioError(
            f"{path} holds no samples, it is empty or truncated; replace it or remove it from the "
            "protocol"
        )
    faulty = np.flatnonzero(~np.isfinite(samples).all(axis=1))
    if faulty.size:
        raise AudioError(
            f"{path} holds {faulty.size} samples that are not finite, the first at {faulty[0]}; "
            "export the recording again"
        )
    return samples, rate_hz
