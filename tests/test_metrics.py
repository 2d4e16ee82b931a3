"""Official metrics: golden values, closed forms, a slow independent twin, invariances, faults."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.metrics import (
    BAYES_THRESHOLD,
    Metrics,
    compute_metrics,
    eer_rocch,
    error_rates,
)

NAMES = ("eer", "eer_threshold", "min_dcf", "act_dcf", "cllr")


def slow_metrics(scores: list[float], labels: list[int]) -> Metrics:
    """The definitions, trial by trial, in plain Python."""
    # False sorts before True: bona fide first among equal scores.
    ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: (pair[0], pair[1] != 1))
    bonafide = [score for score, label in ranked if label == 1]
    spoof = [score for score, label in ranked if label == 0]
    best_gap, eer, threshold, min_dcf = math.inf, math.nan, math.nan, math.inf
    for rejected in range(len(ranked) + 1):
        frr = sum(label == 1 for _, label in ranked[:rejected]) / len(bonafide)
        far = sum(label == 0 for _, label in ranked[rejected:]) / len(spoof)
        if abs(frr - far) < best_gap:
            best_gap, eer = abs(frr - far), (frr + far) / 2
            threshold = ranked[rejected - 1][0] if rejected else ranked[0][0] - 0.001
        min_dcf = min(min_dcf, (0.95 * frr + 10 * 0.05 * far) / 0.5)
    misses = sum(score < -math.log(1.9) for score in bonafide) / len(bonafide)
    alarms = sum(score >= -math.log(1.9) for score in spoof) / len(spoof)
    loss = sum(math.log2(1 + math.exp(-score)) for score in bonafide) / len(bonafide)
    loss += sum(math.log2(1 + math.exp(score)) for score in spoof) / len(spoof)
    return Metrics(eer, threshold, min_dcf, (0.95 * misses + 0.5 * alarms) / 0.5, loss / 2)


def assert_equal(ours: Metrics, other: Metrics, tolerance: float = 1e-12) -> None:
    for name in NAMES:
        assert getattr(ours, name) == pytest.approx(getattr(other, name), rel=0, abs=tolerance), (
            name
        )


@pytest.mark.parametrize("case", ["gaussian", "ties", "flipped", "perfect", "heavy_tails"])
def test_equal_to_the_official_package(golden_dir: Path, case: str) -> None:
    def table(kind: str) -> dict[str, str]:
        with open(golden_dir / f"metrics_{case}.{kind}.tsv", newline="") as file:
            return dict(list(csv.reader(file, delimiter="\t"))[1:])

    keys, scores = table("keys"), table("scores")
    metrics = compute_metrics(
        [float(scores[name]) for name in keys], [int(key == "bonafide") for key in keys.values()]
    )
    expected = json.loads((golden_dir / "metrics.json").read_text())[case]
    for name in NAMES:
        assert getattr(metrics, name) == pytest.approx(expected[name], rel=0, abs=1e-9), name


def test_perfect_scores() -> None:
    metrics = compute_metrics([50.0, 60.0, -50.0, -60.0, -70.0], [1, 1, 0, 0, 0])
    assert (metrics.eer, metrics.min_dcf, metrics.act_dcf) == (0.0, 0.0, 0.0)
    assert metrics.eer_threshold == -50.0
    assert 0.0 < metrics.cllr < 1e-20


def test_flipped_scores() -> None:
    metrics = compute_metrics([-50.0, -60.0, 50.0, 60.0, 70.0], [1, 1, 0, 0, 0])
    assert (metrics.eer, metrics.min_dcf) == (1.0, 1.0)
    assert metrics.act_dcf == pytest.approx(2.9, abs=1e-12)
    assert metrics.cllr == pytest.approx((55.0 + 60.0) / 2 / math.log(2), abs=1e-12)


def test_constant_scores_are_the_official_100_percent() -> None:
    metrics = compute_metrics(np.zeros(30), [1] * 10 + [0] * 20)
    assert_equal(metrics, Metrics(eer=1.0, eer_threshold=0.0, min_dcf=1.0, act_dcf=1.0, cllr=1.0))


def test_two_trials() -> None:
    right, wrong = compute_metrics([1.0, 0.0], [1, 0]), compute_metrics([0.0, 1.0], [1, 0])
    assert (right.eer, right.eer_threshold, right.min_dcf) == (0.0, 0.0, 0.0)
    assert (wrong.eer, wrong.eer_threshold, wrong.min_dcf) == (1.0, 0.0, 1.0)


def test_ties_by_hand() -> None:
    # Walked 0s 1b 1s 2b 2b 2s 2s 3b: the rates meet after the first 2b, at frr 2/4 and far 2/4.
    # The cheapest point rejects 0s alone: 1.9 x 0 + 3/4.
    scores, labels = [1.0, 2.0, 2.0, 3.0, 0.0, 1.0, 2.0, 2.0], [1, 1, 1, 1, 0, 0, 0, 0]
    metrics = compute_metrics(scores, labels)
    assert (metrics.eer, metrics.eer_threshold) == (0.5, 2.0)
    assert metrics.min_dcf == 0.75
    assert metrics.act_dcf == 1.0
    rates = error_rates(scores, labels)
    assert rates.frr.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.75, 0.75, 0.75, 1]
    assert rates.far.tolist() == [1, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0, 0]
    assert rates.thresholds.tolist() == [-0.001, 0, 1, 1, 2, 2, 2, 2, 3]


def test_the_bayes_threshold_itself_is_accepted() -> None:
    assert pytest.approx(-0.6418538861723947, abs=1e-15) == BAYES_THRESHOLD
    below = math.nextafter(BAYES_THRESHOLD, -1)
    assert compute_metrics([BAYES_THRESHOLD, below], [1, 0]).act_dcf == 0.0
    assert compute_metrics([below, BAYES_THRESHOLD], [1, 0]).act_dcf == pytest.approx(2.9)


def test_gaussian_scores_have_the_known_eer() -> None:
    shares = (np.arange(20_000) + 0.5) / 20_000
    quantiles = np.array([NormalDist().inv_cdf(share) for share in shares])
    scores = np.concatenate((quantiles + 1.0, quantiles - 1.0))
    metrics = compute_metrics(scores, np.repeat([1, 0], 20_000))
    assert metrics.eer == pytest.approx(NormalDist().cdf(-1.0), abs=1 / 20_000)
    # The log-likelihood ratio of these densities is 2 x; the best threshold solves 2 x = -ln 1.9.
    best = NormalDist().cdf(BAYES_THRESHOLD / 2 - 1) * 1.9
    best += 1 - NormalDist().cdf(BAYES_THRESHOLD / 2 + 1)
    assert metrics.min_dcf == pytest.approx(best, abs=3 / 20_000)
    calibrated = compute_metrics(2 * scores, np.repeat([1, 0], 20_000))
    assert calibrated.act_dcf == pytest.approx(best, abs=3 / 20_000)


def test_cllr_does_not_overflow() -> None:
    metrics = compute_metrics([-5000.0, 5000.0], [1, 0])
    assert metrics.cllr == pytest.approx(5000 / math.log(2), rel=1e-15)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_equal_to_the_slow_definition(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(150) < rng.uniform(0.1, 0.9)).astype(int)
    labels[:2] = (0, 1)
    scores = np.round(rng.normal(size=150) * 2 + labels * rng.uniform(-1, 3), decimals)
    assert_equal(compute_metrics(scores, labels), slow_metrics(scores.tolist(), labels.tolist()))


# Few different values, so that ties are common.
TRIALS = st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 1)), min_size=2, max_size=40).filter(
    lambda trials: {label for _, label in trials} == {0, 1}
)


@settings(max_examples=200, deadline=None)
@given(TRIALS)
def test_equal_to_the_slow_definition_on_any_small_set(trials: list[tuple[int, int]]) -> None:
    scores, labels = [value / 2 for value, _ in trials], [label for _, label in trials]
    assert_equal(compute_metrics(scores, labels), slow_metrics(scores, labels))


@settings(max_examples=200, deadline=None)
@given(TRIALS, st.randoms(use_true_random=False))
def test_order_and_monotone_transform_change_nothing(trials: list[tuple[int, int]], random) -> None:
    scores, labels = np.array(trials, dtype=float).T
    metrics = compute_metrics(scores, labels)
    warped = compute_metrics(np.exp(scores) * 3 - 100, labels)
    assert (warped.eer, warped.min_dcf) == (metrics.eer, metrics.min_dcf)
    random.shuffle(trials)
    assert_equal(compute_metrics(*np.array(trials, dtype=float).T), metrics)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=40).filter(lambda v: len(v) % 2 == 0))
def test_exchanging_the_classes_and_the_sign_changes_nothing(values: list[int]) -> None:
    # With classes of one size the rates meet exactly once, so EER has no choice of point.
    labels = np.repeat([1, 0], len(values) // 2)
    scores = np.array(values, dtype=float)
    metrics, flipped = compute_metrics(scores, labels), compute_metrics(-scores, 1 - labels)
    assert flipped.eer == metrics.eer
    assert flipped.cllr == pytest.approx(metrics.cllr, abs=1e-12)


def slow_rocch(scores: np.ndarray, labels: np.ndarray) -> float:
    """The lowest crossing of the diagonal by a chord between any two operating points."""
    thresholds = [-math.inf, *sorted(set(scores.tolist())), math.inf]
    points = [
        (float(np.mean(scores[labels == 0] >= t)), float(np.mean(scores[labels == 1] < t)))
        for t in thresholds
    ]
    lowest = 1.0
    for far_a, frr_a in points:
        for far_b, frr_b in points:
            gap_a, gap_b = far_a - frr_a, frr_b - far_b
            if gap_a >= 0 and gap_b >= 0 and gap_a + gap_b > 0:
                lowest = min(lowest, frr_a + gap_a / (gap_a + gap_b) * (frr_b - frr_a))
            elif gap_a == gap_b == 0:
                lowest = min(lowest, frr_a)
    return lowest


@settings(max_examples=200, deadline=None)
@given(TRIALS)
def test_convex_hull_eer_is_the_lowest_crossing_of_all_chords(trials: list) -> None:
    scores, labels = np.array(trials, dtype=float).T
    assert eer_rocch(scores, labels) == pytest.approx(slow_rocch(scores, labels), abs=1e-12)


def test_convex_hull_eer_at_the_ends_and_beside_the_official() -> None:
    labels = np.repeat([1, 0], 4000)
    assert eer_rocch(np.zeros(8000), labels) == 0.5
    assert eer_rocch(labels, labels) == 0.0
    # A flipped system is no better than chance, where the official EER says 100 %.
    assert eer_rocch(-labels, labels) == 0.5
    scores = np.random.default_rng(0).normal(size=8000) + labels
    official = compute_metrics(scores, labels).eer
    assert official - 0.005 < eer_rocch(scores, labels) <= official


def test_bool_labels_and_float32_scores_are_taken() -> None:
    scores = np.array([2.0, 1.0, -1.0], dtype=np.float32)
    metrics = compute_metrics(scores, np.array([True, False, False]))
    assert (metrics.eer, type(metrics.eer), type(metrics.act_dcf)) == (0.0, float, float)


@pytest.mark.parametrize(
    ("scores", "labels", "fault"),
    [
        ([1.0, np.nan, 2.0], [1, 0, 0], r"scores\[1\] is nan \(1 of 3"),
        ([1.0, 2.0, -np.inf], [1, 0, 0], r"scores\[2\] is -inf"),
        ([1.0, 2.0], [1, 2], r"labels\[1\] is 2"),
        ([1.0, 2.0], [1, -1], r"labels\[1\] is -1"),
        ([1.0, 2.0], [1, np.nan], r"labels\[1\] is nan"),
        ([1.0, 2.0], [1, None], r"labels\[1\] is nan|must be numbers"),
        ([1.0, 2.0], ["bonafide", "spoof"], "must be numbers"),
        ([1.0, 2.0], [1, 1], r"no spoof \(0\) trial"),
        ([1.0, 2.0], [0, 0], r"no bona fide \(1\) trial"),
        ([1.0, 2.0], [1, 0, 0], r"shape \(2,\) and labels \(3,\)"),
        ([[1.0], [2.0]], [[1], [0]], r"shape \(2, 1\)"),
        ([], [], "scores are empty"),
    ],
)
def test_bad_input_is_named(scores: list, labels: list, fault: str) -> None:
    with pytest.raises(ScoreError, match=fault):
        compute_metrics(scores, labels)
    with pytest.raises(ScoreError, match=fault):
        error_rates(scores, labels)
    with pytest.raises(ScoreError, match=fault):
        eer_rocch(scores, labels)


@pytest.mark.parametrize(
    "use",
    [
        "from sparse_aasist.evaluation import compute_metrics as f; f([1, 0], [1, 0])",
        "from sparse_aasist.analysis import disentangle as f; f([[0, 1], [1, 0]] * 9, [0, 1] * 9)",
    ],
)
def test_evaluation_and_analysis_need_no_torch(use: str) -> None:
    root = Path(__file__).resolve().parents[1]
    code = f"import sys; sys.modules['torch'] = None; {use}"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
