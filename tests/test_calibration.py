"""Calibration: scikit-learn as an independent optimiser, closed forms, degenerate scores."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.calibration import Calibration, fit_calibration, probability
from sparse_aasist.evaluation.metrics import compute_metrics


def make_scores(seed: int, separation: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(3000) % 5 == 0).astype(int)
    return rng.standard_t(4, size=3000) + separation * labels, labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("separation", [0.3, 2.0, 6.0])
def test_equal_to_scikit_learn(seed: int, separation: float) -> None:
    from sklearn.linear_model import LogisticRegression

    scores, labels = make_scores(seed, separation)
    scores = 7.0 * scores - 40.0
    # C this large is no penalty.
    other = LogisticRegression(C=1e12, class_weight="balanced", tol=1e-10, max_iter=10_000)
    other.fit(scores[:, None], labels)
    ours = fit_calibration(scores, labels)
    expected = (other.coef_[0, 0], other.intercept_[0])
    assert (ours.scale, ours.offset) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("separation", [0.3, 2.0, 6.0])
def test_no_affine_map_has_a_smaller_cllr(separation: float) -> None:
    scores, labels = make_scores(9, separation)
    fitted = fit_calibration(scores, labels)
    best = compute_metrics(fitted.apply(scores), labels)
    for scale in (0.9, 0.99, 1.01, 1.1):
        for offset in (-0.1, -0.01, 0.0, 0.01, 0.1):
            llr = scale * fitted.scale * scores + fitted.offset + offset
            assert compute_metrics(llr, labels).cllr > best.cllr
    # The order, and with it EER and minDCF, stays.
    raw = compute_metrics(scores, labels)
    assert (best.eer, best.min_dcf) == (raw.eer, raw.min_dcf)
    assert best.cllr < min(raw.cllr, 1.0)


def test_gaussian_scores_have_the_known_likelihood_ratio() -> None:
    shares = (np.arange(20_000) + 0.5) / 20_000
    quantiles = np.array([NormalDist().inv_cdf(share) for share in shares])
    scores = np.concatenate((quantiles + 1.5, quantiles[::4] - 0.5))
    labels = np.repeat([1, 0], (20_000, 5_000))
    # ln N(x; 1.5, 1) / N(x; -0.5, 1) = 2 x - 1, whatever the class sizes.
    fitted = fit_calibration(scores, labels)
    assert (fitted.scale, fitted.offset) == pytest.approx((2.0, -1.0), abs=2e-3)
    true = fit_calibration(2.0 * scores - 1.0, labels)
    assert (true.scale, true.offset) == pytest.approx((1.0, 0.0), abs=2e-3)


@pytest.mark.parametrize(("factor", "shift"), [(1e-3, 5.0), (1e6, -1e7), (1e200, 0.0)])
def test_llrs_do_not_depend_on_the_unit_of_the_scores(factor: float, shift: float) -> None:
    scores, labels = make_scores(2)
    expected = fit_calibration(scores, labels).apply(scores)
    moved = factor * scores + shift
    assert fit_calibration(moved, labels).apply(moved) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gap", [1e-6, 1.0, 1e6])
def test_separable_scores_have_a_finite_rising_map(gap: float) -> None:
    scores = np.concatenate((gap + np.linspace(0, 1, 50), np.linspace(-1, 0, 80)))
    labels = np.repeat([1, 0], (50, 80))
    fitted = fit_calibration(scores, labels)
    llr = fitted.apply(scores)
    assert fitted.scale > 0
    assert np.all(np.isfinite(llr))
    # A gap this small beside the spread would need a larger scale than the ridge allows.
    if gap > 1e-3:
        assert llr[labels == 1].min() > 0 > llr[labels == 0].max()
    assert compute_metrics(llr, labels).cllr < 0.02


def test_two_separable_trials_in_closed_form() -> None:
    # By symmetry LLR = scale * score; the loss ln(1 + e^-scale) + 5e-7 scale^2 is flat where
    # 1 / (1 + e^scale) = 1e-6 scale.
    fitted = fit_calibration([1.0, -1.0], [1, 0])
    assert fitted.offset == pytest.approx(0.0, abs=1e-6)
    assert 1 / (1 + math.exp(fitted.scale)) == pytest.approx(1e-6 * fitted.scale, rel=1e-3)


@pytest.mark.parametrize("case", ["flipped", "constant", "equal means"])
def test_scores_without_information_calibrate_to_zero(case: str) -> None:
    scores, labels = make_scores(0)
    scores = {
        "flipped": -scores,
        "constant": np.full(labels.size, 3.7),
        "equal means": np.tile([0.0, 1.0, 2.0, 2.0, 0.0], labels.size // 5),
    }[case]
    if case == "equal means":
        labels = np.tile([1, 1, 1, 0, 0], labels.size // 5)
    fitted = fit_calibration(scores, labels)
    assert (fitted.scale, fitted.offset) == (0.0, 0.0)
    assert compute_metrics(fitted.apply(scores), labels).cllr == pytest.approx(1.0, abs=1e-15)


def test_probability_is_bayes_rule() -> None:
    llr = np.array([[-2.0, 0.0], [0.5, 3.0]])
    ratio = np.exp(llr)
    assert probability(llr, 0.95) == pytest.approx(ratio * 0.95 / (ratio * 0.95 + 0.05), rel=1e-12)
    assert probability(0.0, 0.3) == pytest.approx(0.3, rel=1e-12)
    assert probability([-800.0, 800.0], 0.5).tolist() == [0.0, 1.0]
    # Small probabilities keep their digits.
    assert probability(-50.0, 0.5) == pytest.approx(math.exp(-50.0), rel=1e-12)


def test_round_trip_through_json() -> None:
    fitted = fit_calibration(*make_scores(1))
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_bad_input_is_named() -> None:
    with pytest.raises(ScoreError, match=r"scores\[1\] is nan"):
        fit_calibration([1.0, np.nan], [1, 0])
    with pytest.raises(ScoreError, match="no spoof"):
        fit_calibration([1.0, 2.0], [1, 1])
    with pytest.raises(ScoreError, match="scores: entry 1 is inf"):
        Calibration(1.0, 0.0).apply([0.0, np.inf])
    with pytest.raises(ScoreError, match="llr: entry 0 is nan"):
        probability(np.nan, 0.5)
    for prior in (0.0, 1.0, np.nan):
        with pytest.raises(ScoreError, match="prior_bonafide is"):
            probability(0.0, prior)
    for scale, offset in ((-1.0, 0.0), (np.nan, 0.0), (1.0, np.inf)):
        with pytest.raises(ScoreError, match="calibration has scale"):
            Calibration(scale, offset)
    with pytest.raises(ScoreError, match=r"entries \['scale'\]"):
        Calibration.from_dict({"scale": 1.0})
    with pytest.raises(ScoreError, match="must hold two numbers"):
        Calibration.from_dict({"scale": 1.0, "offset": "much"})
