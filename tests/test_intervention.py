"""Silencing and boosting: equality with the official metrics, closed forms, faults."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparse_aasist.analysis import agreement, intervene
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation import compute_metrics


def sample(seed: int, rows: int = 160, whole: bool = False) -> dict:
    """A small head; whole numbers make sums exact and ties plenty."""
    rng = np.random.default_rng(seed)
    attacks = rng.choice(["A1", "A2", "A3", "bonafide"], rows)
    attacks[:4] = ["A1", "A2", "A3", "bonafide"]
    labels = (attacks == "bonafide").astype(int)
    if whole:
        values = rng.integers(0, 3, (rows, 8)).astype(np.float32)
        delta = rng.integers(-2, 3, 8).astype(float)
    else:
        values = rng.standard_normal((rows, 8)).astype(np.float32)
        delta = rng.standard_normal(8)
    values[:, 1] += 2 * labels
    values[rng.random(values.shape) < 0.5] = 0
    values[:, 5] = 0
    return {
        "embeddings": values, "delta": delta, "bias": 0.25, "attacks": attacks, "labels": labels,
    }  # fmt: skip


def official(case: dict, embeddings: np.ndarray) -> list[float]:
    scores = embeddings.astype(np.float64) @ case["delta"] + case["bias"]
    rates = []
    for attack in ("A1", "A2", "A3"):
        chosen = (case["attacks"] == attack) | (case["labels"] == 1)
        rates.append(compute_metrics(scores[chosen], case["labels"][chosen]).eer)
    return rates


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rows", [5, 20, 160, 700])
def test_every_rate_is_the_official_one(rows: int, whole: bool) -> None:
    for seed in range(6):
        case = sample(seed, rows, whole)
        result = intervene(**case)
        assert result.attacks == ("A1", "A2", "A3")
        assert result.baseline.tolist() == official(case, case["embeddings"])
        for dim in range(8):
            for rates, factor in ((result.silenced, 0), (result.boosted, 2)):
                changed = case["embeddings"].copy()
                changed[:, dim] *= factor
                assert rates[dim].tolist() == official(case, changed), (seed, dim, factor)


def test_constant_and_inverted_scores() -> None:
    case = sample(0)
    case["delta"] = np.zeros(8)
    result = intervene(**case)
    # Equal scores are walked bona fide first.
    assert result.baseline.tolist() == [1.0] * 3
    assert np.all(result.silenced == 1.0) and np.all(result.boosted == 1.0)
    flipped = np.where(case["labels"] == 1, -1.0, 1.0)[:, None]
    assert intervene(flipped, [1.0], 0.0, case["attacks"], case["labels"]).baseline.min() == 1.0


def test_silencing_the_only_detector_of_an_attack_undoes_it_alone() -> None:
    rng = np.random.default_rng(1)
    attacks = np.repeat(["A1", "A2", "bonafide"], 500)
    values = np.stack((attacks == "A1", attacks == "A2", np.zeros(1500)), axis=1).astype(np.float32)
    values = np.concatenate((values, rng.random((1500, 1), dtype=np.float32)), axis=1)
    result = intervene(values, [-5, -5, 3, 0.1], 0, attacks, (attacks == "bonafide").astype(int))
    assert result.baseline.tolist() == [0, 0]
    assert result.silenced[0] == pytest.approx([0.5, 0], abs=0.06)
    assert result.silenced[1] == pytest.approx([0, 0.5], abs=0.06)
    # Never active, so nothing moves; and the noise hides nothing.
    assert result.silenced[2].tolist() == result.boosted[2].tolist() == [0, 0]
    assert result.silenced[3].tolist() == [0, 0]
    json.dumps(result.to_dict(), allow_nan=False)


def test_agreement_is_spearmans_over_the_dimensions_alive() -> None:
    rng = np.random.default_rng(2)
    nmi = rng.random((20, 3))
    effect = -nmi + 0.3 * rng.standard_normal((20, 3))
    nmi[[3, 9]] = 0
    effect[:, 2] = 0
    result = agreement(nmi, effect)
    alive = nmi.any(axis=1)
    for factor in range(2):
        expected = spearmanr(nmi[alive, factor], np.abs(effect[alive, factor]))
        assert result.rho[factor] == pytest.approx(expected.statistic, abs=1e-12)
        assert result.p_value[factor] == pytest.approx(expected.pvalue, abs=1e-12)
    assert result.rho[2] is None and result.p_value[2] is None
    monotone = agreement(nmi, -(nmi**3))
    assert monotone.rho == pytest.approx((1.0,) * 3)
    assert agreement(nmi[:2], effect[:2]).rho == (None,) * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": np.ones(7)}, r"delta has shape \(7,\) for embeddings of 8"),
        ({"delta": np.full(8, np.nan)}, "not finite"),
        ({"bias": np.inf}, "not finite"),
        ({"attacks": np.array(["A1"])}, "one name per trial"),
        ({"labels": np.ones(160)}, "no spoof"),
        ({"labels": np.ones(3)}, "one label per trial"),
        ({"embeddings": np.full((160, 8), np.nan)}, r"embeddings\[0\]"),
    ],
)
def test_faults_are_named(change: dict, message: str) -> None:
    with pytest.raises(SparseAasistError, match=message):
        intervene(**(sample(0) | change))


def test_agreement_faults_are_named() -> None:
    with pytest.raises(SparseAasistError, match="same factors"):
        agreement(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(SparseAasistError, match="not finite"):
        agreement(np.ones((3, 2)), np.full((3, 2), np.nan))
