"""Audio files: what is read, what is refused and by which name, and the crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sparse_aasist.data.audio import (
    SAMPLE_RATE_HZ,
    first_crop,
    load_audio,
    random_crop,
    read_trial_audio,
)
from sparse_aasist.errors import AudioError

CROP_SAMPLES = 64_600


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def tone(rate_hz: int, samples: int, frequency_hz: float = 1000.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(samples) / rate_hz)


def refused(path: Path, fault: str, reader=read_trial_audio) -> None:
    """The reader raises AudioError with the file name and the fault."""
    with pytest.raises(AudioError) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert fault in str(caught.value)


@pytest.mark.parametrize("samples", [1, 2315, CROP_SAMPLES])
def test_flac_is_read_unchanged(tmp_path: Path, samples: int) -> None:
    path = tmp_path / "a.flac"
    integers = np.random.default_rng(1).integers(-32768, 32768, samples, dtype=np.int16)
    soundfile.write(path, integers, SAMPLE_RATE_HZ)
    for reader in (read_trial_audio, load_audio):
        waveform = reader(path)
        assert waveform.dtype == np.float32
        assert np.array_equal(waveform, integers / np.float32(32768))


def test_truncation_is_found_wherever_the_file_ends(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.flac", tmp_path / "cut.flac"
    soundfile.write(whole, noise(9000), SAMPLE_RATE_HZ)
    content = whole.read_bytes()
    # Every 97th byte reaches the header, frame borders and the middle of frames.
    for size in [4, 42, *range(1, len(content), 97), len(content) - 1]:
        cut.write_bytes(content[:size])
        refused(cut, "truncated")
        refused(cut, "truncated", load_audio)


def test_truncation_at_frame_borders_is_found(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.flac", tmp_path / "cut.flac"
    soundfile.write(whole, noise(20_000), SAMPLE_RATE_HZ)
    content = whole.read_bytes()
    borders = [
        i for i in range(42, len(content) - 1) if content[i] == 0xFF and content[i + 1] == 0xF8
    ]
    assert len(borders) >= 5
    for border in borders:
        cut.write_bytes(content[:border])
        refused(cut, "truncated")


def test_corrupt_flac_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(9000), SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refused(path, "corrupt")


@pytest.mark.parametrize("suffix", ["wav", "aiff", "mp3", "ogg"])
def test_truncation_of_other_formats_is_found(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    soundfile.write(whole, noise(9000), SAMPLE_RATE_HZ)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    refused(cut, "truncated", load_audio)


def test_streamed_wav_of_unknown_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    soundfile.write(path, noise(9000), SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    size = content.index(b"data") + 4
    content[4:8] = content[size : size + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert load_audio(path).shape == (9000,)


def test_what_is_no_audio_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent.flac", "does not exist")
    refused(tmp_path, "is a folder")
    empty = tmp_path / "empty.flac"
    empty.touch()
    refused(empty, "0 bytes")
    text = tmp_path / "text.flac"
    text.write_text("this is no audio")
    refused(text, "cannot be decoded")


def test_a_file_without_samples_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros(0), SAMPLE_RATE_HZ)
    refused(path, "no samples")
    refused(path, "no samples", load_audio)


@pytest.mark.parametrize("rate_hz", [8000, 15_999, 44_100])
def test_a_wrong_sample_rate_is_refused_with_a_remedy(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "rate.flac"
    soundfile.write(path, noise(4000), rate_hz)
    refused(path, f"{rate_hz} Hz, 16000 Hz expected; resample it")


def test_stereo_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack((noise(4000), noise(4000, 1)), axis=1), SAMPLE_RATE_HZ)
    refused(path, "2 channels, 1 expected; mix it down")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate_hz", [SAMPLE_RATE_HZ, 48_000])
def test_samples_that_are_not_finite_are_counted(
    tmp_path: Path, value: float, rate_hz: int
) -> None:
    path = tmp_path / "nan.wav"
    waveform = noise(4000)
    waveform[[123, 456]] = value
    soundfile.write(path, waveform, rate_hz, subtype="FLOAT")
    fault = "2 samples that are not finite, the first at 123"
    refused(path, fault)
    refused(path, fault, load_audio)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100, 48_000])
def test_resampling_keeps_time_pitch_and_level(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate_hz, rate_hz), rate_hz, subtype="FLOAT")
    waveform = load_audio(path)
    assert waveform.shape == (SAMPLE_RATE_HZ,)
    # The borders hold the filter's ringing.
    middle = slice(1000, -1000)
    error = np.abs(waveform - tone(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ))[middle]
    assert error.max() < 1e-4


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "high.wav"
    soundfile.write(path, tone(48_000, 48_000, 12_000.0), 48_000, subtype="FLOAT")
    assert np.abs(load_audio(path)[1000:-1000]).max() < 1e-4


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = noise(4000), noise(4000, 1)
    soundfile.write(path, np.stack((left, right), axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    assert np.abs(load_audio(path) - (left + right) / 2).max() < 1e-7


def test_a_recording_too_short_to_resample_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(1), 192_000)
    refused(path, "shorter than one sample", load_audio)


def test_first_crop_cuts_keeps_and_repeats() -> None:
    waveform = np.arange(5, dtype=np.float32)
    assert first_crop(waveform, 3).tolist() == [0, 1, 2]
    assert first_crop(waveform, 5).tolist() == [0, 1, 2, 3, 4]
    assert first_crop(waveform, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert first_crop(waveform[:1], 4).tolist() == [0, 0, 0, 0]


def test_random_crop_takes_every_start_equally_often() -> None:
    waveform = np.arange(10, dtype=np.float32)
    rng = np.random.default_rng(0)
    starts = [int(random_crop(waveform, 7, rng)[0]) for _ in range(4000)]
    counts = np.bincount(starts, minlength=4)
    assert counts.size == 4
    # Five standard deviations of a binomial count around 1,000.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_random_crop_is_consecutive_and_reaches_the_last_sample() -> None:
    waveform = np.arange(CROP_SAMPLES + 1, dtype=np.float32)
    rng = np.random.default_rng(0)
    crops = [random_crop(waveform, CROP_SAMPLES, rng) for _ in range(20)]
    assert {int(crop[-1]) for crop in crops} == {CROP_SAMPLES - 1, CROP_SAMPLES}
    assert all(np.array_equal(np.diff(crop), np.ones(CROP_SAMPLES - 1)) for crop in crops[:3])


@pytest.mark.parametrize("samples", [1, CROP_SAMPLES - 1, CROP_SAMPLES])
def test_random_crop_of_short_and_exact_lengths_needs_no_chance(samples: int) -> None:
    waveform = noise(samples)
    crop = random_crop(waveform, CROP_SAMPLES, np.random.default_rng(0))
    assert crop.shape == (CROP_SAMPLES,)
    assert np.array_equal(crop, first_crop(waveform, CROP_SAMPLES))


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_crops_refuse_what_is_no_waveform(shape: tuple[int, ...]) -> None:
    waveform = np.zeros(shape, dtype=np.float32)
    with pytest.raises(AudioError, match="waveform has shape"):
        first_crop(waveform, 10)
    with pytest.raises(AudioError, match="waveform has shape"):
        random_crop(waveform, 10, np.random.default_rng(0))


def test_crops_refuse_a_length_of_nothing() -> None:
    with pytest.raises(AudioError, match="samples is 0"):
        first_crop(noise(5), 0)
