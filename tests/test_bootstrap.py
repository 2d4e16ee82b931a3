"""Intervals: resampling against copied trials, known widths, training runs, faults."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation import resampling
from sparse_aasist.evaluation.bootstrap import (
    bootstrap_intervals,
    draw_runs,
    seed_intervals,
    speaker_clusters,
)
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.resampling import METRIC_NAMES, sum_clusters, weighted_metrics


def make_scores(
    n_speakers: int = 10, per_speaker: int = 20, seed: int = 7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, labels and speakers; a quarter of the trials is bona fide."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_speakers), per_speaker)
    labels = (np.arange(cluster.size) % 4 == 0).astype(int)
    shift = 0.5 * rng.normal(size=n_speakers)
    return shift[cluster] + 1.5 * labels - 1 + rng.normal(size=cluster.size), labels, cluster


@pytest.mark.parametrize("sign", [1, -1])
def test_resampling_by_weight_equals_resampling_by_copy(sign: int) -> None:
    scores, labels, cluster = make_scores(n_speakers=6, per_speaker=40)
    scores = sign * np.round(scores, 1)
    bonafide = labels == 1
    weights = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=30).astype(float)
    got = weighted_metrics(weights, sum_clusters(scores, bonafide, cluster, 6))
    for row, weight in zip(got, weights, strict=True):
        copies = weight[cluster].astype(int)
        copied = np.repeat(labels, copies)
        metrics = compute_metrics(np.repeat(scores, copies), copied)
        expected = (metrics.min_dcf, metrics.act_dcf, metrics.cllr)
        assert row[1:] == pytest.approx(expected, rel=0, abs=1e-10)
        # The official EER stops at an operating point, this one between two: half a trial apart.
        assert row[0] == pytest.approx(metrics.eer, abs=0.5 / min(copied.sum(), (1 - copied).sum()))


def miss_interval_width(n_speakers: int, per_speaker: int) -> float:
    """Width of the actDCF interval when a fifth of the speakers are always missed."""
    speakers = np.repeat(np.arange(n_speakers), per_speaker)
    scores = np.where(speakers % 5 == 0, -9.0, 9.0)
    # Every speaker brings as many spoofed trials, all rejected.
    low, high = bootstrap_intervals(
        np.concatenate((scores, np.full(scores.size, -9.0))),
        np.repeat([1, 0], scores.size),
        np.concatenate((speakers, speakers)),
        resamples=2000,
        seed=1,
    ).act_dcf
    assert low < 1.9 * 0.2 < high
    return high - low


def test_width_is_that_of_independent_speakers_not_trials() -> None:
    # A share of 0.2 among 500: 2 x 1.96 standard errors, scaled by the weight of a miss.
    expected = 1.9 * 2 * 1.96 * np.sqrt(0.2 * 0.8 / 500)
    assert miss_interval_width(500, 1) == pytest.approx(expected, rel=0.08)
    assert miss_interval_width(500, 8) == pytest.approx(expected, rel=0.08)


def test_a_resample_without_one_class_is_drawn_again() -> None:
    # One speaker is all bona fide, the other all spoof: only draws of both are of use.
    intervals = bootstrap_intervals([3.0, 1.0, 2.0, 0.0], [1, 1, 0, 0], [0, 0, 1, 1],
                                    resamples=200, seed=0)  # fmt: skip
    assert intervals.eer == (0.5, 0.5)
    assert intervals.min_dcf == (0.5, 0.5)


def test_many_trials_share_cells_at_no_visible_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    clusters = rng.integers(0, 40, 20_000)
    scores = rng.normal(size=20_000) + 1.5 * labels + 0.2 * clusters / 40
    shared = bootstrap_intervals(scores, labels, clusters, resamples=100, seed=0)
    monkeypatch.setattr(resampling, "MAX_CELLS", 20_000)
    exact = bootstrap_intervals(scores, labels, clusters, resamples=100, seed=0)
    assert shared.eer == pytest.approx(exact.eer, abs=1e-4)
    assert shared.min_dcf == pytest.approx(exact.min_dcf, abs=1e-3)
    assert shared.act_dcf == exact.act_dcf


def test_no_intervals_from_one_speaker_or_no_resamples() -> None:
    assert bootstrap_intervals([1.0, 0.0], [1, 0], [5, 5], resamples=10, seed=0) is None
    assert bootstrap_intervals([1.0, 0.0], [1, 0], [5, 6], resamples=0, seed=0) is None
    with pytest.raises(ScoreError, match="resamples is -1"):
        bootstrap_intervals([1.0, 0.0], [1, 0], [5, 6], resamples=-1, seed=0)


def test_unknown_speakers_are_clusters_of_their_own() -> None:
    clusters = speaker_clusters(["a", "-", "b", "-", "a"])
    assert clusters.tolist() == [0, 1, 2, 3, 0]
    many = speaker_clusters(["-"] * 5000)
    assert np.bincount(many).tolist() == [5] * 1000


def test_one_run_has_the_intervals_of_its_scores() -> None:
    scores, labels, cluster = make_scores()
    expected = bootstrap_intervals(scores, labels, cluster, resamples=100, seed=5)
    for runs in (scores, scores[None], np.stack((scores,) * 3)):
        metrics, intervals = seed_intervals(runs, labels, cluster, resamples=100, seed=5)
        exact = compute_metrics(scores, labels)
        for name in METRIC_NAMES:
            assert getattr(metrics, name) == pytest.approx(getattr(exact, name), abs=1e-15)
            assert getattr(intervals, name) == pytest.approx(getattr(expected, name), abs=1e-15)


def test_mean_over_runs_is_that_of_the_exact_metrics() -> None:
    scores, labels, cluster = make_scores()
    runs = np.stack((scores, -scores, scores + 1.0))
    metrics, _ = seed_intervals(runs, labels, cluster, resamples=10)
    each = [compute_metrics(run, labels) for run in runs]
    for name in ("eer_threshold", *METRIC_NAMES):
        mean = sum(getattr(run, name) for run in each) / 3
        assert getattr(metrics, name) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("n_runs", [2, 3, 5])
def test_runs_bring_the_unbiased_variance_of_their_mean(n_runs: int) -> None:
    values = np.random.default_rng(n_runs).normal(size=(n_runs, 1, 4))
    draws = draw_runs(np.repeat(values, 40_000, axis=1), np.random.default_rng(0))
    assert draws.mean(axis=0) == pytest.approx(values.mean(axis=(0, 1)), abs=0.02)
    expected = values[:, 0].var(axis=0, ddof=1) / n_runs
    assert draws.var(axis=0) == pytest.approx(expected, rel=0.03)


def test_runs_that_differ_widen_the_interval_by_their_spread() -> None:
    # Every run misses another share of each speaker's trials, so only runs vary.
    labels = np.tile([1] * 10 + [0], 50)
    cluster = np.repeat(np.arange(50), 11)
    shares = np.array([0.1, 0.2, 0.4, 0.5])
    place = np.tile(np.arange(11), 50)
    runs = np.where((labels == 1) & (place >= 10 * shares[:, None]), 9.0, -9.0)
    metrics, intervals = seed_intervals(runs, labels, cluster, resamples=4000)
    assert metrics.act_dcf == pytest.approx(1.9 * 0.3, abs=1e-12)
    # The mean of three draws of four: its lowest and highest have probability 1/64 < 2.5 %.
    assert intervals.act_dcf == pytest.approx((1.9 * 0.4 / 3, 1.9 * 1.4 / 3), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scores": [[1.0, 0.0], [1.0, np.nan]]}, r"scores, run 1: scores\[1\] is nan"),
        ({"scores": [[1.0, 0.0], [1.0]]}, "scores must be numbers, as many for each run"),
        ({"scores": np.zeros((0, 2))}, r"scores have shape \(0, 2\)"),
        ({"scores": np.zeros((1, 1, 2))}, r"scores have shape \(1, 1, 2\)"),
        ({"labels": [1, 1]}, r"run 0: labels hold no spoof"),
        ({"clusters": [0, 1, 2]}, r"clusters have shape \(3,\) for 2 trials"),
        ({"clusters": [4, 4]}, "one cluster .* no interval can be drawn"),
        ({"resamples": 0}, "resamples is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_runs_are_named(change: dict, fault: str) -> None:
    good = {"scores": [1.0, 0.0], "labels": [1, 0], "clusters": [0, 1], "resamples": 5, "seed": 0}
    with pytest.raises(ScoreError, match=fault):
        seed_intervals(**(good | change))
