"""Parts of the corpus builder: shortcut check, Debian cache, vocoders of our own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparse_aasist.corpus import default_cache_dir, default_corpus_dir
from sparse_aasist.corpus.debian import DebianCache, DebPackage, file_sha256
from sparse_aasist.corpus.engines import Request
from sparse_aasist.corpus.engines.griffin_lim import GriffinLim, mel_filters
from sparse_aasist.corpus.engines.lpc import predict, pulse_or_noise
from sparse_aasist.corpus.shortcuts import (
    FEATURES,
    check_shortcuts,
    found_shortcuts,
    shortcut_features,
)
from sparse_aasist.errors import CorpusError

RATE = 16_000


def tables(planted: str | None, trials: int = 200) -> tuple[dict, dict]:
    """Random features of two classes; `planted` names a feature that differs between them."""
    rng = np.random.default_rng(5)
    features, labels = {}, {}
    for part in ("train", "dev", "eval"):
        label = rng.integers(0, 2, trials)
        table = rng.standard_normal((trials, len(FEATURES)))
        if planted is not None:
            table[:, FEATURES.index(planted)] += 2.0 * label
        features[part], labels[part] = table, label.tolist()
    return features, labels


def test_no_shortcut_is_found_where_there_is_none() -> None:
    results = check_shortcuts(*tables(None))
    assert {(r.classifier, r.partition) for r in results} == {
        (name, part)
        for name in ("logistic regression", "gradient boosting")
        for part in ("dev", "eval")
    }
    assert all(0.38 < r.eer < 0.62 for r in results)
    assert found_shortcuts(results) == []


@pytest.mark.parametrize("planted", FEATURES)
def test_planted_shortcut_is_found_in_every_feature(planted: str) -> None:
    assert len(found_shortcuts(check_shortcuts(*tables(planted)))) == 4


def test_limit_sinks_where_trials_are_few() -> None:
    few = check_shortcuts(*tables(None, trials=40))
    many = check_shortcuts(*tables(None, trials=400))
    assert {r.limit for r in many} == {0.30}
    # 3 standard errors of a mean of two proportions with about 20 trials each.
    assert all(0.24 < r.limit < 0.275 for r in few)


def test_shortcut_features_measure_what_they_say() -> None:
    time = np.arange(2 * RATE) / RATE
    clip = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * 1000 * time)
    clip[:3200] = clip[-1600:] = 0
    clip = (clip + 0.001).astype(np.float32)
    values = dict(zip(FEATURES, shortcut_features(clip), strict=True))
    assert values["rms_db"] == pytest.approx(-20 + 10 * np.log10(0.85), abs=0.05)
    assert values["dc_offset"] == pytest.approx(0.001, abs=1e-4)
    assert values["lead_silence_s"] == pytest.approx(0.2)
    assert values["trail_silence_s"] == pytest.approx(0.1)
    assert values["duration_s"] == 2.0
    assert values["rolloff85_hz"] == pytest.approx(1000, abs=60)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("SPARSE_AASIST_CACHE", raising=False)
    assert default_cache_dir() == Path("/x/sparse_aasist")
    monkeypatch.setenv("SPARSE_AASIST_CACHE", "/y")
    assert default_corpus_dir() == Path("/y/corpus")


@pytest.fixture
def package(tmp_path: Path) -> tuple[DebianCache, DebPackage]:
    """A cache with one small .deb made on the spot."""
    if any(shutil.which(name) is None for name in ("apt-get", "apt-cache", "dpkg-deb")):
        pytest.skip("apt and dpkg are not installed here")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: no-such-pkg\nVersion: 1.5\nArchitecture: all\nMaintainer: a\nDescription: b\n"
    )
    (tree / "DEBIAN" / "control").write_text(control, encoding="utf-8")
    (tree / "usr").mkdir()
    (tree / "usr" / "speech.txt").write_text("hello", encoding="utf-8")
    cache = DebianCache(tmp_path / "cache")
    deb = tmp_path / "cache" / "debs" / "no-such-pkg_1.5_all.deb"
    deb.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(deb)], check=True, capture_output=True)
    return cache, DebPackage("no-such-pkg", "1.5", deb.name, file_sha256(deb))


def test_package_is_unpacked_once_without_installing(
    package: tuple[DebianCache, DebPackage],
) -> None:
    cache, deb = package
    root = cache.unpack([deb])
    assert (root / "usr" / "speech.txt").read_text(encoding="utf-8") == "hello"
    (root / "marker").touch()
    assert cache.unpack([deb]) == root
    assert (root / "marker").exists()


def test_broken_package_is_named_and_leaves_nothing(
    package: tuple[DebianCache, DebPackage],
) -> None:
    cache, deb = package
    path = cache.folder / "debs" / deb.file
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorpusError, match=deb.file):
        cache.unpack([deb])
    assert list((cache.folder / "unpacked").iterdir()) == []


def test_damaged_download_is_not_trusted(package: tuple[DebianCache, DebPackage]) -> None:
    cache, deb = package
    cache._write_lock({deb.name: deb})
    assert cache._is_intact(deb)
    path = cache.folder / "debs" / deb.file
    path.write_bytes(path.read_bytes() + b"x")
    assert not cache._is_intact(deb)


def test_linear_prediction_finds_a_known_filter() -> None:
    from scipy import signal

    rng = np.random.default_rng(0)
    truth = np.array([1.0, -1.2, 0.8])
    driven = signal.lfilter([0.5], truth, rng.standard_normal(8000))
    frame = driven[2000:2400] * np.hanning(400)
    predictors = np.mean(
        [predict(driven[i : i + 400] * np.hanning(400))[0] for i in range(1000, 7000, 200)], axis=0
    )
    np.testing.assert_allclose(predictors[:3], truth, atol=0.08)
    np.testing.assert_allclose(predictors[3:], 0, atol=0.08)
    assert predict(frame)[1] == pytest.approx(0.5, rel=0.2)
    assert np.isfinite(predict(np.zeros(400))[0]).all()


def test_source_has_unit_power_and_the_pitch_asked_for() -> None:
    rng = np.random.default_rng(0)
    voiced = pulse_or_noise(np.full(500, 125.0), 160, rng)
    assert np.count_nonzero(voiced) == pytest.approx(125 * 5, abs=1)
    assert np.mean(voiced**2) == pytest.approx(1.0, rel=0.01)
    assert np.mean(pulse_or_noise(np.zeros(500), 160, rng) ** 2) == pytest.approx(1.0, rel=0.03)


def test_mel_filters_cover_the_band() -> None:
    filters = mel_filters(80, 1024, RATE)
    assert filters.shape == (80, 513)
    assert (filters >= 0).all()
    assert (filters.sum(axis=1) > 0).all()
    centres = filters.argmax(axis=1)
    assert (np.diff(centres) >= 0).all()


def test_griffin_lim_keeps_the_spectrum_and_loses_the_phase() -> None:
    time = np.arange(RATE) / RATE
    source = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20)).astype(np.float32)
    (made, rate_hz), (again, _) = GriffinLim().speak([Request(3, source=source)] * 2, 0)
    assert rate_hz == RATE
    np.testing.assert_array_equal(made, again)
    assert made.size == source.size
    spectra = [np.abs(np.fft.rfft(w[4000:12000])).reshape(-1)[:4000] for w in (source, made)]
    smooth = [np.convolve(s, np.ones(80), "same") for s in spectra]
    assert np.corrcoef(*smooth)[0, 1] > 0.9
    assert abs(np.corrcoef(source[4000:12000], made[4000:12000])[0, 1]) < 0.9
