"""Analysis and evaluation at the size of ASVspoof5, against the straightforward way.

    pytest benchmarks/bench_analysis.py

`make bench` runs this and writes the tables (report.py). Everything here is numpy on a CPU.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from measure import check, clock, measure
from pytest_benchmark.fixture import BenchmarkFixture

from sparse_aasist.analysis import disentangle, intervene
from sparse_aasist.analysis.binning import bin_codes
from sparse_aasist.analysis.classes import read_classes
from sparse_aasist.analysis.information import count_tables, information
from sparse_aasist.data.protocol import Trial
from sparse_aasist.evaluation import compare_scores, compute_metrics, condition_table
from sparse_aasist.evaluation.bootstrap import Intervals, bootstrap_intervals, speaker_clusters

DEV_TRIALS, DEV_BONAFIDE, DEV_ATTACKS = 140_950, 31_334, 7
EVAL_TRIALS, EVAL_BONAFIDE, EVAL_ATTACKS = 680_774, 138_688, 16
EVAL_SPEAKERS, EVAL_CODECS = 737, 12
K = 20
FEW_DIMS = 32
"""What the straightforward ways are given; they would take minutes for more."""
WIDTHS = [("sparse_aasist", dims) for dims in (FEW_DIMS, 160, 320)]
PERMUTATIONS = 100
FEW_RESAMPLES, RESAMPLES = 10, 1000

pytestmark = pytest.mark.benchmark(timer=clock)


@pytest.fixture(autouse=True)
def _cpu_only(device: str) -> None:
    if device != "cpu":
        pytest.skip("numpy runs on the CPU")


@cache
def dev(dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings (N, D) with k values per row, class names (N,) and labels (N,)."""
    rng = np.random.default_rng(dims)
    spoof = rng.integers(1, DEV_ATTACKS + 1, DEV_TRIALS - DEV_BONAFIDE)
    kind = np.concatenate((np.zeros(DEV_BONAFIDE, dtype=np.int64), spoof))
    centres = rng.standard_normal((DEV_ATTACKS + 1, dims), dtype=np.float32)
    values = rng.standard_normal((DEV_TRIALS, dims), dtype=np.float32) + centres[kind]
    dropped = np.argpartition(values, dims - K, axis=1)[:, : dims - K]
    np.put_along_axis(values, dropped, 0.0, axis=1)
    names = np.array(["bonafide", *(f"A{9 + i:02d}" for i in range(DEV_ATTACKS))])
    return values, names[kind], (kind == 0).astype(np.int64)


@cache
def evaluation() -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Trial, ...]]:
    """Return scores of two systems (2, N), labels, clusters and trials of eval's size."""
    rng = np.random.default_rng(1)
    labels = np.zeros(EVAL_TRIALS, dtype=np.int64)
    labels[:EVAL_BONAFIDE] = 1
    speakers = rng.integers(EVAL_SPEAKERS, size=EVAL_TRIALS)
    # Speakers and trials are alike for both systems, as in practice.
    shared = rng.standard_normal(EVAL_SPEAKERS)[speakers] / 2 + rng.standard_normal(EVAL_TRIALS)
    noise = rng.standard_normal((2, EVAL_TRIALS)) / 2
    scores = 1.5 * labels + shared + noise
    attacks = rng.integers(17, 17 + EVAL_ATTACKS, EVAL_TRIALS).tolist()
    codecs = rng.integers(EVAL_CODECS, size=EVAL_TRIALS).tolist()
    trials = tuple(
        Trial(
            f"E_{speaker:04d}", f"E_{index:010d}", "F", f"C{codec:02d}" if codec else "-", "0",
            "-", "-", "bonafide" if label else f"A{attack}", label,
        )
        for index, (speaker, codec, attack, label) in enumerate(
            zip(speakers.tolist(), codecs, attacks, labels.tolist(), strict=True)
        )
    )  # fmt: skip
    return scores, labels, speaker_clusters([trial.speaker for trial in trials]), trials


def run(
    benchmark: BenchmarkFixture,
    function: Callable[[], object],
    provider: str,
    **sizes: int,
) -> None:
    """Measure peak memory, then time."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    benchmark.extra_info.update(
        provider=provider, mode="forward", kind="cpu", peak_bytes=peak, **sizes
    )
    measure(benchmark, function, "cpu")


@pytest.mark.parametrize("provider", ["sparse_aasist", "scikit-learn"])
def bench_information(benchmark: BenchmarkFixture, provider: str) -> None:
    """Mutual information of every dimension and class."""
    from sklearn.metrics import mutual_info_score

    values, names, _ = dev(FEW_DIMS)
    classes = np.unique(names)

    def ours() -> np.ndarray:
        codes = bin_codes(values)
        return information(count_tables(codes, read_classes(names, len(names)))).nmi

    def theirs() -> np.ndarray:
        found = np.empty((FEW_DIMS, classes.size))
        for column, name in enumerate(classes):
            factor = names == name
            entropy = mutual_info_score(factor, factor)
            for dim in range(FEW_DIMS):
                edges = np.linspace(values[:, dim].min(), values[:, dim].max(), 21)
                code = np.digitize(values[:, dim], edges[1:-1].astype(np.float32))
                found[dim, column] = mutual_info_score(code, factor) / entropy
        return found

    function = ours if provider == "sparse_aasist" else theirs
    if provider != "sparse_aasist":
        # A value on an edge may fall to either side of it.
        check(np.asarray(function()), np.asarray(ours()), 1e-4)
    run(benchmark, function, provider, rows=DEV_TRIALS, dim=FEW_DIMS)


@pytest.mark.parametrize(("provider", "dims"), [*WIDTHS, ("permuted labels", FEW_DIMS)])
def bench_disentangle(benchmark: BenchmarkFixture, dims: int, provider: str) -> None:
    """Information, null of 100 permutations and scores."""
    values, names, _ = dev(dims)

    def ours() -> np.ndarray:
        return disentangle(values, names, permutations=PERMUTATIONS).null_mean

    def permuted() -> np.ndarray:
        codes, rng = bin_codes(values), np.random.default_rng(1)
        total = np.zeros((dims, np.unique(names).size))
        for _ in range(PERMUTATIONS):
            shuffled = read_classes(rng.permutation(names), len(names))
            total += information(count_tables(codes, shuffled)).nmi
        return total / PERMUTATIONS

    if provider != "sparse_aasist":
        # Means of 100 draws each, which differ by chance; most are 1e-4 or above.
        check(permuted(), ours(), 1e-4)
    function = ours if provider == "sparse_aasist" else permuted
    run(benchmark, function, provider, rows=DEV_TRIALS, dim=dims)


@pytest.mark.parametrize(("provider", "dims"), [*WIDTHS, ("compute_metrics", FEW_DIMS)])
def bench_intervene(benchmark: BenchmarkFixture, dims: int, provider: str) -> None:
    """EER of every attack with every dimension silenced, then doubled."""
    values, names, labels = dev(dims)
    delta = np.random.default_rng(2).standard_normal(dims)
    attacks = np.unique(names[labels == 0])

    def loop() -> np.ndarray:
        scores = values.astype(np.float64) @ delta
        found = np.empty((2, dims, attacks.size))
        for dim in range(dims):
            for which, sign in enumerate((1.0, -1.0)):
                changed = scores - sign * values[:, dim] * delta[dim]
                for column, attack in enumerate(attacks):
                    chosen = (labels == 1) | (names == attack)
                    eer = compute_metrics(changed[chosen], labels[chosen]).eer
                    found[which, dim, column] = eer
        return found

    def ours() -> np.ndarray:
        effects = intervene(values, delta, 0.0, names, labels)
        return np.stack((effects.silenced, effects.boosted))

    if provider != "sparse_aasist":
        check(loop(), ours(), 1e-4)
    function = ours if provider == "sparse_aasist" else loop
    run(benchmark, function, provider, rows=DEV_TRIALS, dim=dims)


@pytest.mark.parametrize(
    ("provider", "resamples"),
    [
        ("sparse_aasist", FEW_RESAMPLES),
        ("sparse_aasist", RESAMPLES),
        ("trials drawn", FEW_RESAMPLES),
    ],
)
def bench_bootstrap(benchmark: BenchmarkFixture, resamples: int, provider: str) -> None:
    """Intervals of EER, minDCF, actDCF and Cllr over speakers."""
    scores, labels, clusters, _ = evaluation()
    order = np.argsort(clusters, kind="stable")
    bounds = np.searchsorted(clusters[order], np.arange(EVAL_SPEAKERS + 1))

    def ours(resamples: int = resamples) -> Intervals:
        return bootstrap_intervals(scores[0], labels, clusters, resamples=resamples, seed=1)

    def drawn() -> list[float]:
        rng = np.random.default_rng(1)
        rates = []
        for _ in range(resamples):
            picked = rng.integers(EVAL_SPEAKERS, size=EVAL_SPEAKERS)
            rows = np.concatenate([order[bounds[s] : bounds[s + 1]] for s in picked])
            rates.append(compute_metrics(scores[0, rows], labels[rows]).eer)
        return rates

    if provider != "sparse_aasist":
        # Other draws of the same distribution: their median lies well inside of it.
        low, high = ours(RESAMPLES).eer
        assert low < np.median(drawn()) < high
    function = ours if provider == "sparse_aasist" else drawn
    run(benchmark, function, provider, rows=EVAL_TRIALS, batch=resamples)


def bench_compare(benchmark: BenchmarkFixture) -> None:
    """Paired difference of two systems."""
    scores, labels, clusters, _ = evaluation()
    run(
        benchmark,
        lambda: compare_scores(scores[0], scores[1], labels, clusters, resamples=RESAMPLES),
        "sparse_aasist",
        rows=EVAL_TRIALS,
        batch=RESAMPLES,
    )


def bench_conditions(benchmark: BenchmarkFixture) -> None:
    """EER of 16 attacks by 12 codecs with margins."""
    scores, _, _, trials = evaluation()
    run(benchmark, lambda: condition_table(trials, scores[0]), "sparse_aasist", rows=EVAL_TRIALS)
