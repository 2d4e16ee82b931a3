"""What trials are sorted by: classes, who is left out, and acoustics against known sounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic import make_corpus

from sparse_aasist.analysis import acoustics
from sparse_aasist.analysis.acoustics import PROPERTIES, measure, measure_split
from sparse_aasist.analysis.factors import MIN_PER_CLASS, attack_factor, other_factors
from sparse_aasist.data.protocol import BONAFIDE, SPOOF, Trial, open_split
from sparse_aasist.errors import AudioError, ScoreError, SparseAasistError

RATE = 16_000


def trials(*groups):
    """Make trials of (count, attack, speaker, gender, codec)."""
    rows = [group[1:] for group in groups for _ in range(group[0])]
    return [
        Trial(
            speaker, f"T{index}", gender, codec, "-", "-", "-", attack,
            BONAFIDE if attack == "bonafide" else SPOOF,
        )
        for index, (attack, speaker, gender, codec) in enumerate(rows)
    ]  # fmt: skip


SAMPLE = trials(
    (12, "bonafide", "ann", "F", "C01"),
    (11, "bonafide", "bob", "M", "-"),
    (3, "bonafide", "cid", "M", "-"),
    (10, "A01", "ann", "F", "-"),
    (10, "A02", "eve", "F", "C01"),
    (9, "A03", "bob", "M", "-"),
    (15, "-", "bob", "M", "-"),
)


def test_attacks_too_few_or_without_a_name_are_left_out():
    factor = attack_factor(SAMPLE)
    names, counts = np.unique(factor.labels, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "A01": 10, "A02": 10, "bonafide": 26,
    }  # fmt: skip
    assert [SAMPLE[row].attack for row in factor.rows] == factor.labels.tolist()


def test_excluded_attacks_leave_and_one_class_alone_is_no_factor():
    assert set(attack_factor(SAMPLE, frozenset({"A01"})).labels) == {"A02", "bonafide"}
    assert attack_factor(SAMPLE, frozenset({"A01", "A02"})) is None


def test_speaker_and_gender_are_compared_on_bona_fide_speech_only():
    factors, skipped = other_factors(SAMPLE)
    assert set(factors["speaker"].labels) == {"ann", "bob"}
    for name in ("speaker", "gender"):
        assert all(SAMPLE[row].label == BONAFIDE for row in factors[name].rows)
    assert factors["gender"].rows.size == 26
    assert set(factors["codec"].labels) == {"-", "C01"} and factors["codec"].rows.size == 70
    assert skipped == ()


def test_what_the_protocol_does_not_tell_is_named():
    unknown = [dataclasses.replace(t, gender="-", speaker="-", codec="-") for t in SAMPLE]
    factors, skipped = other_factors(unknown)
    assert factors == {} and skipped == ("codec", "gender", "speaker")


def test_acoustics_become_tertiles_of_the_bona_fide_trials_that_could_be_measured():
    values = np.arange(len(SAMPLE), dtype=float)[::-1].copy()
    values[:2] = np.nan
    values[40:] = 1e9
    sample = trials((32, "bonafide", "a", "F", "-"), (38, "A01", "a", "F", "-"))
    factors, _ = other_factors(sample, {"f0_hz": values})
    factor = factors["f0_hz"]
    assert factor.rows.tolist() == list(range(2, 32))
    assert factor.labels.tolist() == ["high"] * 10 + ["middle"] * 10 + ["low"] * 10
    assert MIN_PER_CLASS == 10
    _, skipped = other_factors(sample, {"f0_hz": np.full(70, np.nan)})
    assert "f0_hz" in skipped


def test_pitch_tilt_and_level_of_known_sounds():
    pytest.importorskip("parselmouth")
    time = np.arange(RATE) / RATE
    harmonics = sum(np.sin(2 * np.pi * 140 * order * time) / order for order in range(1, 20))
    voice = (0.1 * harmonics).astype(np.float32)
    found = dict(zip(PROPERTIES, measure(voice, RATE // 2), strict=True))
    assert found["f0_hz"] == pytest.approx(140, rel=1e-3)
    assert found["f0_spread_semitones"] < 0.05
    assert found["duration_s"] == 1.0
    assert found["level_db"] == pytest.approx(10 * np.log10(np.mean(voice**2)), abs=0.05)
    # Harmonics 1 to 7 lie below 1 kHz, 8 to 19 below 4 kHz; amplitudes fall as 1 / order.
    powers = 1.0 / np.arange(1, 20) ** 2
    expected = 10 * np.log10(powers[7:].sum() / powers[:7].sum())
    assert found["tilt_db"] == pytest.approx(expected, abs=0.1)

    louder = dict(zip(PROPERTIES, measure(4 * voice, RATE), strict=True))
    assert louder["level_db"] - found["level_db"] == pytest.approx(20 * np.log10(4), abs=0.05)
    assert louder["tilt_db"] == pytest.approx(found["tilt_db"], abs=0.05)


def test_only_what_a_model_hears_is_measured():
    pytest.importorskip("parselmouth")
    time = np.arange(RATE) / RATE
    waveform = np.where(time < 0.5, np.sin(2 * np.pi * 120 * time), 0).astype(np.float32)
    heard = dict(zip(PROPERTIES, measure(waveform, RATE // 2), strict=True))
    whole = dict(zip(PROPERTIES, measure(waveform, RATE), strict=True))
    assert heard["level_db"] - whole["level_db"] == pytest.approx(10 * np.log10(2), abs=0.01)
    assert heard["duration_s"] == whole["duration_s"] == 1.0


@pytest.mark.parametrize("samples", [1, 100, 1599, 8000])
def test_silence_noise_and_short_sounds_have_no_pitch_and_no_fault(samples):
    pytest.importorskip("parselmouth")
    silence = np.zeros(samples, dtype=np.float32)
    f0, spread, tilt, level, _ = measure(silence, 8000)
    assert np.isnan([f0, spread, tilt]).all() and level == -120.0
    noise = np.random.default_rng(1).standard_normal(samples).astype(np.float32)
    assert np.isfinite(measure(0.1 * noise, 8000)[3:]).all()


def test_a_split_is_measured_once_and_a_foreign_cache_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("parselmouth")
    corpus = make_corpus(tmp_path / "corpus", trials_per_split=6)
    dev, cache = open_split(corpus, "dev"), tmp_path / "dev.tsv"
    first = measure_split(dev, 4000, cache)
    # Bona fide trials are harmonic and voiced between 110 and 220 Hz.
    assert ((first["f0_hz"][::2] > 105) & (first["f0_hz"][::2] < 225)).all()

    monkeypatch.setattr(acoustics, "ProcessPoolExecutor", None)
    again = measure_split(dev, 4000, cache)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in PROPERTIES)
    with pytest.raises(ScoreError, match="first 4000 samples of the trials of eval"):
        measure_split(open_split(corpus, "eval"), 4000, cache)
    with pytest.raises(ScoreError, match="first 4001 samples of the trials of dev"):
        measure_split(dev, 4001, cache)
    cache.write_text(cache.read_text().replace("\t0.", "\tx", 1))
    with pytest.raises(ScoreError, match=r"dev\.tsv: could not convert"):
        measure_split(dev, 4000, cache)


def test_a_damaged_file_is_named_and_leaves_no_cache(tmp_path):
    pytest.importorskip("parselmouth")
    corpus = make_corpus(tmp_path / "corpus", trials_per_split=6)
    dev = open_split(corpus, "dev")
    damaged = dev.audio_path(dev.trials[3])
    damaged.write_bytes(b"")
    with pytest.raises(AudioError, match=damaged.name):
        measure_split(dev, 4000, tmp_path / "dev.tsv")
    assert not (tmp_path / "dev.tsv").exists()


def test_without_parselmouth_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "parselmouth", None)
    with pytest.raises(SparseAasistError, match=r"sparse-aasist\[acoustics\]"):
        measure(np.ones(RATE, dtype=np.float32), RATE)
