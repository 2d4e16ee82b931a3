"""Codes, information and its null: sklearn, closed forms, real permutations, faults."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from sparse_aasist.analysis import exceedance
from sparse_aasist.analysis.binning import bin_codes
from sparse_aasist.analysis.classes import read_classes
from sparse_aasist.analysis.information import count_tables, information
from sparse_aasist.analysis.null import draw_tables, p_values, sample_null
from sparse_aasist.errors import SparseAasistError

RULES = ("equal_width", "zero_aware", "on_off")


def sparse_sample(rows: int = 600, dims: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings with exact zeros, some of whose dimensions follow the class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["A1", "A2", "A3", "bonafide"], rows, p=[0.1, 0.2, 0.3, 0.4])
    values = rng.standard_normal((rows, dims)).astype(np.float32)
    values[:, 0] += 2 * (labels == "A1")
    values[:, 1] *= 1 + 2 * (labels == "bonafide")
    values[values < 0.3] = 0
    return values, labels


def tables_of(values: np.ndarray, labels: np.ndarray, rule: str = "equal_width") -> np.ndarray:
    return count_tables(bin_codes(values, rule), read_classes(labels, len(values)))


def test_equal_width_codes_are_numpys_histogram() -> None:
    values, _ = sparse_sample()
    codes = bin_codes(values, bins=20)
    for dim in range(values.shape[1]):
        counts, _ = np.histogram(values[:, dim].astype(np.float64), bins=20)
        assert np.bincount(codes.index[:, dim], minlength=20).tolist() == counts.tolist()


def test_zero_aware_codes_keep_zero_apart_and_share_the_rest() -> None:
    column = np.concatenate((np.zeros(50), np.arange(-30, 0), np.arange(1, 31)))
    index = bin_codes(column[:, None], "zero_aware", bins=7).index[:, 0]
    assert np.all((index == 0) == (column == 0))
    assert np.bincount(index).tolist() == [50, 10, 10, 10, 10, 10, 10]
    assert np.all(np.diff(index[50:].astype(int)) >= 0)


def test_zero_aware_quantiles_that_coincide_merge() -> None:
    column = np.array([0.0] * 5 + [1.0] * 90 + [2.0] * 5)
    index = bin_codes(column[:, None], "zero_aware", bins=20).index[:, 0]
    for value in (0.0, 1.0, 2.0):
        assert np.unique(index[column == value]).size == 1
    assert np.unique(index).size == 3


def test_on_off_codes() -> None:
    codes = bin_codes([[0.0, -1.0], [-0.0, 0.0], [2.0, 1e-30]], "on_off")
    assert codes.bins == 2
    assert codes.index.tolist() == [[0, 1], [0, 0], [1, 1]]


def test_extreme_range_and_constant_column() -> None:
    top = np.finfo(np.float32).max
    codes = bin_codes(np.array([[-top, 3.0], [0.0, 3.0], [top, 3.0]]), bins=4)
    assert codes.index.T.tolist() == [[0, 2, 3], [0, 0, 0]]


@pytest.mark.parametrize("rule", RULES)
def test_information_equals_sklearn(rule: str) -> None:
    values, labels = sparse_sample()
    index = bin_codes(values, rule).index
    ours = information(tables_of(values, labels, rule))
    names = np.unique(labels)
    for dim in range(values.shape[1]):
        for factor, name in enumerate(names):
            inside = labels == name
            expected = mutual_info_score(inside, index[:, dim]) / mutual_info_score(inside, inside)
            assert ours.nmi[dim, factor] == pytest.approx(expected, abs=1e-12)
        whole = mutual_info_score(labels, index[:, dim]) / mutual_info_score(labels, labels)
        assert ours.total[dim] == pytest.approx(whole, abs=1e-12)


def test_information_is_exact_where_it_is_nothing_or_everything() -> None:
    labels = np.array(["a", "b", "c"] * 40)
    balanced = np.repeat([0.0, 1.0], 60)
    constant = np.full(120, 7.0)
    number = np.array([1.0, 2.0, 3.0] * 40)
    ours = information(tables_of(np.stack((balanced, constant, number), axis=1), labels))
    assert ours.nmi[:2].tolist() == [[0, 0, 0]] * 2
    assert ours.total[:2].tolist() == [0, 0]
    assert ours.nmi[2] == pytest.approx([1, 1, 1], abs=1e-12)
    assert ours.total[2] == pytest.approx(1, abs=1e-12)


def test_small_tables_come_up_as_often_as_they_should() -> None:
    # A 2 x 2 table with fixed margins has one free cell, which is hypergeometric.
    rng = np.random.default_rng(1)
    per_code, per_class = np.array([[3, 5]]), np.array([4, 4])
    cell = draw_tables(rng, per_code, per_class, 40_000)[:, 0, 0, 0]
    for hits in range(4):
        chance = math.comb(3, hits) * math.comb(5, 4 - hits) / math.comb(8, 4)
        assert np.mean(cell == hits) == pytest.approx(chance, abs=0.012)


def test_drawn_tables_keep_their_margins() -> None:
    values, labels = sparse_sample()
    tables = tables_of(values, labels)
    per_code, per_class = tables.sum(axis=2), tables[0].sum(axis=0)
    drawn = draw_tables(np.random.default_rng(2), per_code, per_class, 5)
    assert drawn.min() >= 0
    assert np.all(drawn.sum(axis=3) == per_code)
    assert np.all(drawn.sum(axis=2) == per_class)


def test_null_equals_real_permutations() -> None:
    values, labels = sparse_sample(rows=300, dims=4)
    tables = tables_of(values, labels)
    draws = 1500
    sampled = sample_null(tables, draws, seed=3)
    rng = np.random.default_rng(4)
    codes = bin_codes(values)
    shuffled = [
        information(count_tables(codes, read_classes(rng.permutation(labels), len(labels))))
        for _ in range(draws)
    ]
    for name in ("nmi", "total"):
        drawn = getattr(sampled, name)
        real = np.stack([getattr(entry, name) for entry in shuffled])
        error = np.sqrt((drawn.var(axis=0) + real.var(axis=0)) / draws)
        assert np.all(np.abs(drawn.mean(axis=0) - real.mean(axis=0)) < 4 * error)
        # The chance to exceed the 95 % quantile of the other; its error is 0.0056 twice over.
        limit = np.quantile(real, 0.95, axis=0)
        assert np.abs((drawn > limit).mean(axis=0) - (real > limit).mean(axis=0)).max() < 0.03


def test_null_mean_is_the_known_bias() -> None:
    # The plug-in bias of a 2-row table, (bins - 1) / 2N nats.
    rng = np.random.default_rng(5)
    rows, bins = 20_000, 8
    labels = rng.choice(["a", "b", "c"], rows)
    tables = tables_of(rng.integers(0, bins, (rows, 40)).astype(float), labels)
    shares = tables[0].sum(axis=0) / rows
    entropy = -shares * np.log(shares) - (1 - shares) * np.log(1 - shares)
    bias = (bins - 1) / (2 * rows) / entropy
    assert sample_null(tables, 200, seed=6).nmi.mean(axis=(0, 1)) == pytest.approx(bias, rel=0.03)


def test_p_values_are_uniform_without_information() -> None:
    rng = np.random.default_rng(7)
    labels = rng.choice(["a", "b", "c"], 500)
    tables = tables_of(rng.standard_normal((500, 600)), labels)
    p = p_values(information(tables).total, sample_null(tables, 99, seed=8).total)
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * math.sqrt(0.25 / 600))
    assert p.min() > 0 and p.max() <= 1


def test_p_value_counts_ties_and_itself() -> None:
    null = np.array([[0.1], [0.2], [0.3], [0.4]])
    assert p_values(np.array([0.3]), null).tolist() == [3 / 5]
    assert p_values(np.array([9.0]), null).tolist() == [1 / 5]


def test_null_repeats_with_its_seed() -> None:
    tables = tables_of(*sparse_sample(rows=100))
    assert np.array_equal(sample_null(tables, 20, 1).nmi, sample_null(tables, 20, 1).nmi)
    assert not np.array_equal(sample_null(tables, 20, 1).nmi, sample_null(tables, 20, 2).nmi)


def test_exceedance_is_the_share_strictly_above() -> None:
    nmi = [[0.0, 0.1], [0.2, 0.5]]
    assert exceedance(nmi, [0.0, 0.1, 0.15, 0.5]).tolist() == [0.75, 0.5, 0.5, 0.0]
    with pytest.raises(SparseAasistError, match="nmi is empty"):
        exceedance(np.empty((0, 3)), [0.1])


@pytest.mark.parametrize(
    ("values", "rule", "bins", "message"),
    [
        ([[1.0], [np.nan]], "equal_width", 20, r"embeddings\[1\] holds a value that is not"),
        ([[1e300], [1.0]], "equal_width", 20, r"embeddings\[0\] holds a value that is not"),
        ([1.0, 2.0], "equal_width", 20, "shape \\(2,\\)"),
        (np.empty((0, 4)), "equal_width", 20, "shape \\(0, 4\\)"),
        ([["x"]], "equal_width", 20, "must be numbers"),
        ([[1.0]], "log", 20, "choose one of equal_width, zero_aware, on_off"),
        ([[1.0]], "on_off", 1, "bins is 1"),
        ([[1.0]], "equal_width", 257, "bins is 257"),
    ],
)
def test_faulty_embeddings_are_named(values: object, rule: str, bins: int, message: str) -> None:
    with pytest.raises(SparseAasistError, match=message):
        bin_codes(values, rule, bins)


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        (["a", "b"], 3, "shape \\(2,\\) for 3 rows"),
        (["a"], 1, "needs at least two"),
        (["a", "a"], 2, "all labels are a"),
        ([0.5, 0.7], 2, "type float64"),
        (["a", None], 2, "type object"),
        (list("abcdefgh"), 8, "8 classes in 8 rows"),
    ],
)
def test_faulty_labels_are_named(labels: list, rows: int, message: str) -> None:
    with pytest.raises(SparseAasistError, match=message):
        read_classes(labels, rows)


def test_integer_labels_keep_their_order() -> None:
    classes = read_classes([10, 2, 2, 10], 4)
    assert classes.names == ("2", "10")
    assert classes.index.tolist() == [1, 0, 0, 1]
