"""Disentanglement scores: plain loops, closed forms, the published values, the null, faults."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sparse_aasist.analysis import Disentanglement, detected_attacks, disentangle
from sparse_aasist.analysis.information import information
from sparse_aasist.analysis.null import draw_tables
from sparse_aasist.analysis.scores import (
    completeness,
    effective_dimensions,
    modularity_entropy,
    modularity_rm,
    mutual_information_gap,
)
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation import compute_metrics

# ASVspoof5 dev without A12: seven attacks and bona fide.
DEV_SIZES = np.array([13_702] * 7 + [31_334])


def sample(rows: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five dimensions that follow classes, ten of noise, one dead; TopK-like zeros."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["A1", "A2", "A3", "A4", "bonafide"], rows)
    values = rng.standard_normal((rows, 16)).astype(np.float32)
    for dim, name in enumerate(np.unique(labels)):
        values[:, dim] += (1 + dim) * (labels == name)
    values[values < 0.5] = 0
    values[:, 15] = 0
    return values, labels


def loop_completeness(column: list[float], dims: int) -> float:
    total = sum(column)
    return 1 + sum(m / total * math.log(m / total) for m in column if m > 0) / math.log(dims)


def loop_modularity(row: list[float]) -> tuple[float, float]:
    top = max(range(len(row)), key=lambda factor: row[factor])
    rest = sum(m * m for factor, m in enumerate(row) if factor != top)
    ridgeway_mozer = 1 - rest / (row[top] ** 2 * (len(row) - 1))
    total = sum(row)
    entropy = -sum(m / total * math.log(m / total) for m in row if m > 0)
    return ridgeway_mozer, 1 - entropy / math.log(len(row))


def test_scores_equal_plain_loops() -> None:
    result = disentangle(*sample())
    nmi = result.nmi.tolist()
    alive = int(result.alive.sum())
    assert alive == 15
    for factor in range(5):
        column = [row[factor] for row in nmi]
        expected = loop_completeness(column, 16)
        assert result.completeness.values[factor] == pytest.approx(expected, abs=1e-12)
        pruned = loop_completeness(column, alive)
        assert result.completeness_pruned.values[factor] == pytest.approx(pruned, abs=1e-12)
        count = math.exp((1 - expected) * math.log(16))
        assert result.effective_dims.values[factor] == pytest.approx(count, rel=1e-12)
        first, second = sorted(column)[:-3:-1]
        assert result.mig.values[factor] == pytest.approx(first - second, abs=1e-15)
    kept = np.flatnonzero(result.informative).tolist()
    pairs = [loop_modularity(nmi[dim]) for dim in kept]
    weights = [sum(nmi[dim]) for dim in kept]
    for score, reading in enumerate((result.modularity_rm, result.modularity_entropy)):
        values = [pair[score] for pair in pairs]
        assert np.flatnonzero(~reading.values.mask).tolist() == kept
        assert reading.values.compressed() == pytest.approx(values, abs=1e-12)
        assert reading.mean.value == pytest.approx(sum(values) / len(values), abs=1e-12)
        weighted = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
        assert reading.weighted_mean.value == pytest.approx(weighted, abs=1e-12)


def test_corrected_scores_subtract_the_null_mean() -> None:
    result = disentangle(*sample())
    corrected = np.maximum(result.nmi - result.null_mean, 0)
    for factor in range(5):
        expected = loop_completeness(corrected[:, factor].tolist(), 16)
        assert result.completeness_corrected.values[factor] == pytest.approx(expected, abs=1e-12)
        count = math.exp((1 - expected) * math.log(16))
        assert result.effective_dims_corrected.values[factor] == pytest.approx(count, rel=1e-12)
    assert result.completeness_corrected.mean.value > result.completeness.mean.value


def test_one_dimension_that_names_the_class_is_complete() -> None:
    # The other dimensions are exactly independent of the class, or dead.
    labels = np.repeat(["a", "b", "c", "d"], 60)
    values = np.zeros((240, 4))
    values[:, 0] = np.repeat([0.0, 1.0, 2.0, 3.0], 60)
    values[:, 1] = np.tile([0.0, 1.0], 120)
    result = disentangle(values, labels)
    assert result.alive.tolist() == [True, True, False, False]
    assert result.informative.tolist() == [True, False, False, False]
    assert result.completeness.values.tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    assert result.effective_dims.values.tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    assert result.mig.values.tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    # It carries all classes alike: complete, and not modular at all.
    assert result.modularity_rm.values.tolist() == [pytest.approx(0.0, abs=1e-12), None, None, None]
    assert result.modularity_entropy.mean.value == pytest.approx(0.0, abs=1e-12)
    assert result.total.tolist() == [pytest.approx(1.0), 0.0, 0.0, 0.0]


def test_one_detector_per_class_has_the_closed_form() -> None:
    # Classes exclude each other, so the detector of one carries a little on each of the others, and
    # completeness stays far below 1 even for the ideal code.
    n_classes, size = 5, 40
    labels = np.repeat(np.arange(n_classes), size)
    result = disentangle(np.eye(n_classes)[labels], labels, rule="on_off")
    share = 1 / n_classes
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    # I = H(f) + H(g) - H(f, g); the pair has three outcomes.
    joint = -2 * share * math.log(share) - (1 - 2 * share) * math.log(1 - 2 * share)
    other = (2 * entropy - joint) / entropy
    expected = np.full((n_classes, n_classes), other)
    np.fill_diagonal(expected, 1.0)
    assert result.nmi == pytest.approx(expected, abs=1e-12)
    score = loop_completeness([1.0] + [other] * (n_classes - 1), n_classes)
    assert score == pytest.approx(0.379, abs=0.001)
    assert result.completeness.values.tolist() == pytest.approx([score] * n_classes, abs=1e-12)
    assert result.modularity_entropy.mean.value == pytest.approx(score, abs=1e-12)
    assert result.modularity_rm.mean.value == pytest.approx(1 - other**2, abs=1e-12)


def detector_table(fires: list[float]) -> np.ndarray:
    on = np.round(DEV_SIZES * np.array(fires)).astype(np.int64)
    return np.stack((DEV_SIZES - on, on))[None]


@pytest.mark.parametrize(
    ("fires", "entropy_form", "ridgeway_mozer"),
    [([1, 0, 0, 0, 0, 0, 0, 0], 0.54, 0.998), ([0, 0, 0, 0, 0, 0, 0, 1], 0.30, 0.991)],
)
def test_ideal_detectors_at_the_sizes_of_the_dev_set(
    fires: list[float], entropy_form: float, ridgeway_mozer: float
) -> None:
    nmi = information(detector_table(fires)).nmi
    assert modularity_entropy(nmi)[0] == pytest.approx(entropy_form, abs=0.005)
    assert modularity_rm(nmi)[0] == pytest.approx(ridgeway_mozer, abs=0.0005)


def test_modularity_of_noise_is_high_when_the_code_is_on_or_off() -> None:
    rows = int(DEV_SIZES.sum())
    active = rows // 16
    rng = np.random.default_rng(1)
    tables = draw_tables(rng, np.array([[rows - active, active]]), DEV_SIZES, 2000)[:, 0]
    scores = modularity_rm(information(tables).nmi)
    assert scores.mean() == pytest.approx(0.90, abs=0.015)
    assert np.quantile(scores.data, 0.95) == pytest.approx(0.99, abs=0.005)


def test_noise_is_at_its_null() -> None:
    rng = np.random.default_rng(2)
    values = np.maximum(rng.standard_normal((3000, 60)), 0)
    result = disentangle(values, rng.choice(list("abcde"), 3000), permutations=200)
    readings = (
        result.completeness, result.completeness_corrected, result.effective_dims, result.mig,
        result.modularity_rm, result.modularity_entropy,
    )  # fmt: skip
    for reading in readings:
        level = reading.mean
        assert level.value == pytest.approx(
            level.null_mean, abs=2.5 * abs(level.null_quantile - level.null_mean)
        )
    assert result.informative.sum() <= 9  # 3 of 60 expected
    assert np.mean(result.nmi > result.null_quantile) == pytest.approx(0.05, abs=0.04)


def test_order_of_dimensions_does_not_matter() -> None:
    values, labels = sample()
    order = np.random.default_rng(3).permutation(values.shape[1])
    plain, moved = disentangle(values, labels), disentangle(values[:, order], labels)
    assert np.array_equal(plain.nmi[order], moved.nmi)
    assert np.array_equal(plain.alive[order], moved.alive)
    for name in ("completeness", "effective_dims", "mig"):
        ours, other = getattr(plain, name).values, getattr(moved, name).values
        assert ours.tolist() == pytest.approx(other.tolist(), abs=1e-12)
    # Not bitwise equal, because the null is drawn in the order of the dimensions.
    assert plain.completeness_corrected.mean.value == pytest.approx(
        moved.completeness_corrected.mean.value, abs=0.02
    )


def test_two_classes_have_no_modularity() -> None:
    values, labels = sample()
    result = disentangle(values, np.where(labels == "bonafide", "bonafide", "spoof"))
    assert result.nmi[:, 0] == pytest.approx(result.nmi[:, 1], abs=1e-12)
    for reading in (result.modularity_rm, result.modularity_entropy):
        assert reading.values.mask.all()
        assert reading.mean.value is None and reading.weighted_mean.null_mean is None


def test_a_single_dimension_alive_has_no_pruned_completeness() -> None:
    values, labels = sample()
    values[:, 1:] = 0
    result = disentangle(values, labels)
    assert result.completeness.values.tolist() == pytest.approx([1.0] * 5)
    assert result.completeness_pruned.values.tolist() == [None] * 5
    assert set(result.completeness_pruned.to_dict()["mean"].values()) == {None}


def test_scores_of_a_matrix_without_information_are_masked() -> None:
    nmi = np.zeros((3, 4))
    nmi[0, 1] = 0.5
    assert completeness(nmi, 3).tolist() == [None, 1.0, None, None]
    assert effective_dimensions(nmi).tolist() == [None, 1.0, None, None]
    assert modularity_rm(nmi).tolist() == [1.0, None, None]
    assert modularity_entropy(nmi).tolist() == [1.0, None, None]
    assert mutual_information_gap(nmi).tolist() == [0.0, 0.5, 0.0, 0.0]
    assert completeness(nmi, 1).tolist() == [None] * 4


@pytest.mark.parametrize("rows", [4, 6, 900])
def test_result_is_plain_json_without_nan(rows: int) -> None:
    values, labels = sample()
    if rows < 10:
        labels = np.resize(["a", "b"], 900)
    result = disentangle(values[:rows], labels[:rows], rule="on_off")
    text = json.dumps(result.to_dict(), allow_nan=False)
    entries = json.loads(text)
    assert set(entries) == set(Disentanglement.__dataclass_fields__)
    assert np.array(entries["nmi"]) == pytest.approx(result.nmi, rel=1e-5)
    assert entries["modularity_rm"]["values"][15] is None
    assert entries["factor_counts"] == np.unique(labels[:rows], return_counts=True)[1].tolist()


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones((6, 3)), {}, "all 3 dimensions"),
        (np.ones((6, 1)), {}, "one dimension"),
        (np.eye(6), {"permutations": 5}, "permutations is 5"),
        (np.eye(5), {}, "for 5 rows"),
        (np.full((6, 2), np.inf), {}, r"embeddings\[0\]"),
    ],
)
def test_faults_are_named(values: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(SparseAasistError, match=message):
        disentangle(values, ["a", "b", "c"] * 2, **options)


def test_detected_attacks_are_those_below_the_limit() -> None:
    rng = np.random.default_rng(4)
    attacks = np.repeat(["bonafide", "A1", "A2", "A3"], 200)
    labels = (attacks == "bonafide").astype(int)
    shift = {"bonafide": 2.0, "A1": 0.0, "A2": 1.5, "A3": 5.0}
    scores = np.round(rng.standard_normal(800) + [shift[name] for name in attacks], 1)
    kept, dropped = detected_attacks(attacks, scores, labels)
    assert list(kept) == ["A1"] and list(dropped) == ["A2", "A3"]
    for attack, eer in (kept | dropped).items():
        chosen = (attacks == attack) | (labels == 1)
        assert eer == compute_metrics(scores[chosen], labels[chosen]).eer
    assert dropped["A3"] > 0.8
    assert detected_attacks(attacks, scores, labels, limit=1.0)[1] == {}
    with pytest.raises(SparseAasistError, match=r"limit is 20"):
        detected_attacks(attacks, scores, labels, limit=20)
    with pytest.raises(SparseAasistError, match="one name per trial"):
        detected_attacks(attacks[:5], scores, labels)
