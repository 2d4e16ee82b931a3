"""The path of every clip: level, band, ends, lengths, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_aasist.corpus import finish
from sparse_aasist.corpus.shortcuts import FEATURES, shortcut_features
from sparse_aasist.errors import AudioError

RATE = 16_000


def syllables(seconds: float, rate_hz: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise bursts over a harmonic tone, with pauses, silence at both ends and a DC offset."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    tone = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 40))
    voiced = np.sin(2 * np.pi * 2.5 * time) > -0.7
    speech = (tone + 0.3 * rng.standard_normal(time.size)) * voiced
    silence = np.zeros(int(0.5 * rate_hz))
    return (0.2 * np.concatenate([silence, speech, silence]) + 0.05).astype(np.float32)


def band_power(clip: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(clip)) ** 2
    bins_hz = np.fft.rfftfreq(clip.size, 1 / RATE)
    return float(power[(bins_hz >= low_hz) & (bins_hz < high_hz)].sum())


def test_to_speech_trims_resamples_and_removes_offset() -> None:
    speech = finish.to_speech(syllables(3.0, 22_050), 22_050)
    assert abs(speech.size / RATE - 3.0) < 0.35
    assert abs(speech.mean()) < 1e-3
    assert np.abs(speech).max() == pytest.approx(0.7, abs=1e-6)


def test_to_speech_averages_channels_and_limits_the_length() -> None:
    mono = syllables(9.0)
    speech = finish.to_speech(np.stack([mono, mono], axis=1), RATE)
    assert speech.size == (finish.MAX_LENGTH_S + 1) * RATE
    np.testing.assert_allclose(speech, finish.to_speech(mono, RATE), atol=1e-6)


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(RATE, np.float32), np.full(RATE, np.nan, np.float32), np.ones(100, np.float32)],
    ids=["silence", "nan", "short"],
)
def test_to_speech_refuses_what_holds_no_speech(waveform: np.ndarray) -> None:
    with pytest.raises(AudioError, match="leave it out"):
        finish.to_speech(waveform, RATE)


@pytest.mark.parametrize("seed", range(6))
def test_finished_clip_has_level_band_and_speech_at_both_ends(seed: int) -> None:
    speech = finish.to_speech(syllables(4.0, seed=seed), RATE)
    clip = finish.finish_clip(speech, 2 * RATE, np.random.default_rng(seed))
    features = dict(zip(FEATURES, shortcut_features(clip), strict=True))
    assert -30.3 < features["rms_db"] < -19.7
    assert abs(features["dc_offset"]) < 1e-5
    assert features["lead_silence_s"] <= 0.04
    assert features["trail_silence_s"] <= 0.04
    assert 1.5 <= features["duration_s"] <= 2.0
    assert band_power(clip, 6000, 8000) < 1e-4 * band_power(clip, 100, 5600)
    assert finish.pause_level_db(clip) > -47


def test_finishing_is_a_function_of_the_seed() -> None:
    speech = finish.to_speech(syllables(4.0), RATE)
    first, again, other = (
        finish.finish_clip(speech, 2 * RATE, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_pauses_are_filled_to_the_drawn_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "PAUSE_LEVEL_DB", (-40.0, -40.0))
    speech = finish.to_speech(syllables(5.0), RATE)
    # Digital silence in the pauses, as a synthesizer leaves it.
    speech = np.where(np.abs(speech) < 0.02, 0, speech).astype(np.float32)
    clip = finish.finish_clip(speech, 4 * RATE, np.random.default_rng(3))
    assert finish.pause_level_db(clip) == pytest.approx(-40, abs=4)


@pytest.mark.parametrize("codec", finish.CODECS)
@pytest.mark.parametrize("samples", [RATE, RATE + 1])
def test_codec_keeps_length_and_most_of_the_signal(codec: str, samples: int) -> None:
    speech = finish.to_speech(syllables(4.0), RATE)[:samples]
    coded = finish.code(speech, codec)
    assert abs(coded.size - samples) <= 1
    delays = range(40)
    size = min(coded.size, samples) - 40
    match = max(np.corrcoef(coded[d : d + size], speech[:size])[0, 1] for d in delays)
    assert 0.9 < match < 1 - 1e-6


def test_equal_lengths_gives_both_classes_one_distribution() -> None:
    rng = np.random.default_rng(0)
    bonafide = rng.integers(2 * RATE, 6 * RATE, 300)
    spoof = rng.integers(2 * RATE, 3 * RATE, 500)
    of_bonafide, of_spoof = finish.equal_lengths(bonafide.tolist(), spoof.tolist())
    margin = 2 * finish.MARGIN_S * RATE
    assert (np.array(of_bonafide) <= bonafide - margin + 1).all()
    assert (np.array(of_spoof) <= spoof - margin + 1).all()
    quantiles = np.linspace(0.05, 0.95, 19)
    gap = np.quantile(of_bonafide, quantiles) - np.quantile(of_spoof, quantiles)
    assert np.abs(gap).max() < 0.05 * RATE


def test_equal_lengths_caps_long_clips_and_takes_an_empty_class() -> None:
    of_bonafide, of_spoof = finish.equal_lengths([20 * RATE, 2 * RATE], [])
    assert of_bonafide == [int(finish.MAX_LENGTH_S * RATE), int((2 - 2 * finish.MARGIN_S) * RATE)]
    assert of_spoof == []
