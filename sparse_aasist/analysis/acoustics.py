"""Acoustic properties of trials, measured from the audio by Praat (through parselmouth).

They become factors beside the attacks, so that "which dimension tracks pitch" can be asked in the
same words as "which dimension tracks A13".
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.data.audio import SAMPLE_RATE_HZ, read_trial_audio
from sparse_aasist.data.protocol import Split
from sparse_aasist.errors import ScoreError, SparseAasistError
from sparse_aasist.files import write_text

PROPERTIES = ("f0_hz", "f0_spread_semitones", "tilt_db", "level_db", "duration_s")
"""Columns of a measurement; `measure` defines them."""

_HEADER = ("filename", "heard_samples", *PROPERTIES)
_TILT_BANDS_HZ = ((0, 1000), (1000, 4000))
_SILENCE_DB = -120.0
_MIN_SAMPLES_FOR_PITCH = SAMPLE_RATE_HZ // 10


def measure(waveform: NDArray[np.float32], samples: int) -> tuple[float, ...]:
    """Measure one utterance, in the order of `PROPERTIES`.

    f0_hz: median of the voiced frames (Praat's autocorrelation method, 75 to 600 Hz);
    f0_spread_semitones: their standard deviation on a logarithmic scale, 12 log2;
    tilt_db: level of 1 to 4 kHz over that of 0 to 1 kHz in the long-term average spectrum;
    level_db: root mean square relative to full scale, at least -120; duration_s: of the whole file.

    Args:
        waveform: (length,) at 16 kHz, the whole utterance.
        samples: how many of them a model hears; all but the duration is measured on those.

    Returns:
        Five numbers; NaN for f0 where nothing is voiced and for the tilt of digital silence.

    Raises:
        SparseAasistError: parselmouth is not installed; names the extra.
    """
    praat = _praat()
    heard = waveform[:samples].astype(np.float64)
    level = 10.0 * math.log10(max(float(np.mean(heard**2)), 10.0 ** (_SILENCE_DB / 10.0)))
    f0, spread, tilt = math.nan, math.nan, math.nan
    if level > _SILENCE_DB:
        sound = praat.Sound(heard, sampling_frequency=SAMPLE_RATE_HZ)
        f0, spread = _pitch(sound) if heard.size >= _MIN_SAMPLES_FOR_PITCH else (f0, spread)
        low, high = (_band_level(heard, band) for band in _TILT_BANDS_HZ)
        tilt = high - low
    return f0, spread, tilt, level, waveform.size / SAMPLE_RATE_HZ


def measure_split(
    split: Split,
    samples: int,
    cache: str | os.PathLike[str],
    track: Callable[[Iterable], Iterable] = iter,
) -> dict[str, NDArray[np.float64]] | None:
    """Measure all trials of a split in parallel, or read them where that was done before.

    Args:
        split: the trials.
        samples: as in `measure`.
        cache: tab-separated file of the results, written after the first measurement.
        track: wraps the trials, for a progress bar.

    Returns:
        For each of `PROPERTIES` float64 (N,), in the order of the trials; None where nothing was
        measured before and parselmouth is not installed.

    Raises:
        AudioError: a file cannot be used; names it.
        ScoreError: the cache is of other trials or samples, or damaged; names it.
    """
    cache = Path(cache)
    if not cache.is_file():
        if importlib.util.find_spec("parselmouth") is None:
            return None
        paths = [split.audio_path(trial) for trial in split.trials]
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            lengths = [samples] * len(paths)
            found = pool.map(_measure_file, paths, lengths, chunksize=16)
            rows = [row for row, _ in zip(found, track(paths), strict=True)]
        _write(cache, [trial.name for trial in split.trials], samples, rows)
    return _read(cache, split, samples)


def _measure_file(path: Path, samples: int) -> tuple[float, ...]:
    return measure(read_trial_audio(path), samples)


def _pitch(sound) -> tuple[float, float]:
    frequencies = sound.to_pitch_ac(pitch_floor=75.0, pitch_ceiling=600.0)
    voiced = frequencies.selected_array["frequency"]
    voiced = voiced[voiced > 0]
    if voiced.size == 0:
        return math.nan, math.nan
    return float(np.median(voiced)), float(np.std(12.0 * np.log2(voiced)))


def _band_level(heard: NDArray[np.float64], band: tuple[int, int]) -> float:
    power = np.abs(np.fft.rfft(heard)) ** 2
    low, high = (round(edge * heard.size / SAMPLE_RATE_HZ) for edge in band)
    return 10.0 * math.log10(max(float(power[low : max(high, low + 1)].sum()), 1e-30))


def _praat():
    try:
        import parselmouth
    except ImportError as error:
        raise SparseAasistError(
            "acoustic factors are measured by praat-parselmouth, which is not installed; "
            'pip install "sparse-aasist[acoustics]"'
        ) from error
    return parselmouth


def _write(cache: Path, names: list[str], samples: int, rows: list[tuple[float, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(
        (name, samples, *map(repr, row)) for name, row in zip(names, rows, strict=True)
    )
    write_text(cache, text.getvalue())


def _read(cache: Path, split: Split, samples: int) -> dict[str, NDArray[np.float64]]:
    with open(cache, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    expected = [[trial.name, str(samples)] for trial in split.trials]
    whole = all(len(row) == len(_HEADER) for row in rows)
    if tuple(header) != _HEADER or not whole or [row[:2] for row in rows] != expected:
        raise ScoreError(
            f"{cache}: not the acoustic properties of the first {samples} samples of the trials "
            f"of {split.name}; remove the file to have them measured again"
        )
    try:
        table = np.array([row[2:] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise ScoreError(f"{cache}: {error}; remove the file to measure again") from error
    return dict(zip(PROPERTIES, table.T, strict=True))
