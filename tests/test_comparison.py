"""Paired comparison: the same resamples for both systems, known widths, error rate, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.bootstrap import speaker_clusters
from sparse_aasist.evaluation.comparison import compare_files, compare_scores
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.resampling import METRIC_NAMES
from sparse_aasist.evaluation.scores import write_scores


def make_systems(
    rng: np.random.Generator, n_speakers: int = 30, per_speaker: int = 20, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of two equally good systems that share most of their errors."""
    cluster = np.repeat(np.arange(n_speakers), per_speaker)
    labels = np.tile([1, 0], cluster.size // 2)
    common = rng.normal(size=cluster.size) + rng.normal(size=n_speakers)[cluster] + 2 * labels - 1
    a, b = (common + noise * rng.normal(size=cluster.size) for _ in range(2))
    return a, b, labels, cluster


def test_resamples_are_those_of_copied_trials() -> None:
    a, b, labels, cluster = make_systems(np.random.default_rng(3))
    # 50 resamples are one block of draws.
    weights = np.random.default_rng(11).multinomial(30, [1 / 30] * 30, size=50)
    found = {name: [] for name in METRIC_NAMES}
    for weight in weights:
        copies = weight[cluster]
        of_a, of_b = (
            compute_metrics(np.repeat(scores, copies), np.repeat(labels, copies))
            for scores in (a, b)
        )
        for name in METRIC_NAMES:
            found[name].append(getattr(of_a, name) - getattr(of_b, name))
    comparison = compare_scores(a, b, labels, cluster, resamples=50, seed=11)
    for name in METRIC_NAMES:
        # The official EER stops at an operating point, the resampled one between two.
        tolerance = 1 / 300 if name == "eer" else 1e-9
        difference, draws = getattr(comparison, name), np.array(found[name])
        low, high = np.quantile(draws, (0.025, 0.975))
        assert difference.interval == pytest.approx((low, high), abs=tolerance)
        if name != "eer":
            fewer = min(np.sum(draws <= 1e-12), np.sum(draws >= -1e-12))
            assert difference.p_value == pytest.approx(min(1, 2 * (fewer + 1) / 51))
        exact_a, exact_b = (getattr(compute_metrics(s, labels), name) for s in (a, b))
        assert (difference.a, difference.b) == (exact_a, exact_b)
        assert difference.difference == exact_a - exact_b


def test_what_is_hard_for_both_cancels() -> None:
    a, _, labels, cluster = make_systems(np.random.default_rng(0))
    same = compare_scores(a, a, labels, cluster, resamples=50)
    shifted = compare_scores(a, a + 1.0, labels, cluster, resamples=50)
    for name in METRIC_NAMES:
        difference = getattr(same, name)
        assert (difference.difference, difference.interval, difference.p_value) == (0, (0, 0), 1)
    # EER and minDCF depend on the order of the scores alone.
    assert shifted.eer == same.eer
    assert shifted.min_dcf == same.min_dcf
    assert shifted.cllr.difference != 0


def test_width_is_that_of_the_difference_per_speaker() -> None:
    # A misses a fifth of 500 speakers, B a tenth that A misses too: per speaker the
    # difference is 1 for a tenth and 0 for the rest.
    speakers = np.arange(500)
    spoof = np.full(500, -9.0)
    a = np.concatenate((np.where(speakers % 5 == 0, -9.0, 9.0), spoof))
    b = np.concatenate((np.where(speakers % 10 == 0, -9.0, 9.0), spoof))
    labels, cluster = np.repeat([1, 0], 500), np.concatenate((speakers, speakers))
    found = compare_scores(a, b, labels, cluster, resamples=2000).act_dcf
    assert found.difference == pytest.approx(1.9 * 0.1, abs=1e-12)
    width = 1.9 * 2 * 1.96 * np.sqrt(0.1 * 0.9 / 500)
    assert found.interval[1] - found.interval[0] == pytest.approx(width, rel=0.08)
    assert found.p_value == 2 / 2001


def test_exchanging_the_systems_changes_the_sign() -> None:
    a, b, labels, cluster = make_systems(np.random.default_rng(1))
    there = compare_scores(a, b, labels, cluster, resamples=200)
    back = compare_scores(b, a, labels, cluster, resamples=200)
    for name in METRIC_NAMES:
        one, other = getattr(there, name), getattr(back, name)
        assert (one.difference, one.p_value) == (-other.difference, other.p_value)
        low, high = other.interval
        assert one.interval == pytest.approx((-high, -low), abs=1e-12)


def test_equal_systems_are_told_apart_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    p_values = np.array(
        [
            compare_scores(*make_systems(rng), resamples=199, seed=trial).cllr.p_value
            for trial in range(150)
        ]
    )
    # Three standard deviations about 5 % and 50 % of 150.
    assert 0.0 < np.mean(p_values <= 0.05) < 0.105
    assert 0.38 < np.mean(p_values <= 0.5) < 0.62


def test_runs_of_both_systems_enter_the_interval() -> None:
    # Only runs vary: every speaker is missed in the same share by each run.
    labels = np.tile([1] * 10 + [0], 40)
    cluster, place = np.repeat(np.arange(40), 11), np.tile(np.arange(11), 40)

    def runs(shares: list[float]) -> np.ndarray:
        missed = place < 10 * np.array(shares)[:, None]
        return np.where((labels == 1) & ~missed, 9.0, -9.0)

    a, b = [0.1, 0.3], [0.2, 0.5, 0.6]
    found = compare_scores(runs(a), runs(b), labels, cluster, resamples=4000)
    difference = found.act_dcf
    assert (found.n_runs_a, found.n_runs_b, found.n_speakers) == (2, 3, 40)
    assert (difference.a, difference.b) == pytest.approx((1.9 * 0.2, 1.9 * 1.3 / 3), abs=1e-12)
    # One run of A, two of B with replacement: 18 equally likely differences. The extremes, 1 in
    # 18, are more likely than 2.5 %, and only 0.3 - 0.2 is positive.
    assert difference.interval == pytest.approx((1.9 * -0.5, 1.9 * 0.1), abs=1e-12)
    assert difference.p_value == pytest.approx(2 / 18, rel=0.2)
    # 0.3 beside 0.2, and beside the mean of 0.2 and 0.4 (twice), a tie that floats break.
    tied = compare_scores(runs(a), runs([0.2, 0.4, 0.6]), labels, cluster, resamples=4000).act_dcf
    assert tied.p_value == pytest.approx(2 * 3 / 18, rel=0.12)
    single = compare_scores(runs([0.2]), runs([0.4]), labels, cluster, resamples=100).act_dcf
    assert single.interval == pytest.approx((1.9 * -0.2, 1.9 * -0.2), abs=1e-12)


def test_comparison_depends_on_the_seed_alone_and_goes_to_json() -> None:
    a, b, labels, cluster = make_systems(np.random.default_rng(2))
    first, again, other = (
        compare_scores(a, b, labels, cluster, resamples=30, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.eer.interval != other.eer.interval
    data = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert data["eer"]["interval"] == list(first.eer.interval)
    assert (data["resamples"], data["seed"], data["n_runs_b"]) == (30, 1, 1)


def test_bad_scores_name_the_system() -> None:
    good, labels, cluster = [1.0, 0.0], [1, 0], [0, 1]
    with pytest.raises(ScoreError, match=r"scores_b, run 0: scores\[1\] is nan"):
        compare_scores(good, [1.0, np.nan], labels, cluster)
    with pytest.raises(ScoreError, match=r"clusters have shape \(2,\) for 3 trials"):
        compare_scores([1.0, 0.0, 2.0], good, labels, cluster)
    with pytest.raises(ScoreError, match="no interval can be drawn"):
        compare_scores(good, good, labels, [7, 7])
    with pytest.raises(ScoreError, match="resamples is 0"):
        compare_scores(good, good, labels, cluster, resamples=0)


def test_files_are_matched_to_the_protocol(tmp_path: Path) -> None:
    a, b, labels, cluster = make_systems(np.random.default_rng(4), n_speakers=6)
    trials = [
        Trial(f"E_{speaker}", f"E_{index}", "F", "-", "-", "-", "-",
              "bonafide" if label else "A17", int(label))
        for index, (speaker, label) in enumerate(zip(cluster, labels, strict=True))
    ]  # fmt: skip
    names = [trial.name for trial in trials]
    paths = {name: tmp_path / f"{name}.tsv" for name in ("a", "a2", "b")}
    # The order of a score file is its own.
    write_scores(paths["a"], names[::-1], a[::-1])
    write_scores(paths["a2"], names, a + 0.1)
    write_scores(paths["b"], names, b)
    clusters = speaker_clusters([trial.speaker for trial in trials])
    found = compare_files(trials, [paths["a"], paths["a2"]], str(paths["b"]), resamples=40, seed=9)
    runs = np.stack((a, a + 0.1))
    assert found == compare_scores(runs, b, labels, clusters, resamples=40, seed=9)

    write_scores(paths["b"], names[1:], b[1:])
    with pytest.raises(ScoreError, match=r"b\.tsv: 1 of 120 trials have no score: E_0"):
        compare_files(trials, paths["a"], paths["b"])
    with pytest.raises(ScoreError, match="paths_b is empty"):
        compare_files(trials, paths["a"], [])
    withheld = [Trial("-", name, *["-"] * 6, None) for name in names]
    with pytest.raises(ScoreError, match="labels are missing for 120 of 120"):
        compare_files(withheld, paths["a"], paths["a2"])
