"""Confidence intervals of the metrics by a bootstrap over speakers, and over training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.metrics import Metrics, check_scores, compute_metrics
from sparse_aasist.evaluation.resampling import (
    ClusterSums,
    index_clusters,
    resample_metrics,
    sum_clusters,
)

LEVEL = 0.95
# Trials whose speaker is unknown are independent as far as anyone can tell; they are dealt into
# this many clusters, which keeps the counts small and estimates the same spread.
MAX_UNKNOWN_CLUSTERS = 1000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals (low, high) of the metrics, in the units of `Metrics`."""

    eer: Interval
    min_dcf: Interval
    act_dcf: Interval
    cllr: Interval


@dataclass(frozen=True)
class Runs:
    """Training runs of one configuration, scored on the same trials.

    metrics: exact metrics of each run; their mean is the point estimate.
    sums: what resampling needs of each run.
    n_clusters: number of speakers.
    """

    metrics: tuple[Metrics, ...]
    sums: tuple[ClusterSums, ...]
    n_clusters: int

    def mean(self) -> Metrics:
        """Return the mean of each metric over the runs."""
        return Metrics(*np.mean([astuple(metrics) for metrics in self.metrics], axis=0).tolist())


def speaker_clusters(speakers: Sequence[str]) -> NDArray[np.int64]:
    """Number the clusters to draw: one per speaker, unknown speakers ("-") spread over many."""
    numbers: dict[object, int] = {}
    clusters = np.empty(len(speakers), dtype=np.int64)
    unknown = 0
    for index, speaker in enumerate(speakers):
        key: object = speaker
        if speaker == "-":
            key = unknown % MAX_UNKNOWN_CLUSTERS
            unknown += 1
        clusters[index] = numbers.setdefault(key, len(numbers))
    return clusters


def bootstrap_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike,
    *,
    resamples: int,
    seed: int,
) -> Intervals | None:
    """Estimate 95 % intervals by drawing clusters with replacement.

    Args:
        scores: (N,) higher = bona fide.
        labels: (N,) 1 = bona fide, 0 = spoof.
        clusters: (N,) integers; trials of one speaker have the same.
        resamples: number of resamples; 0 for no intervals.
        seed: of the random draws.

    Returns:
        The 2.5 % and 97.5 % quantiles, or None with fewer than two clusters or no resamples.

    Raises:
        ScoreError: as for `compute_metrics`, not one cluster per trial, or a negative number of
            resamples or seed.
    """
    values, bonafide = check_scores(scores, labels)
    cluster, n_clusters = index_clusters(clusters, values.size)
    if resamples < 0:
        raise ScoreError(f"resamples is {resamples}; give 0 (no intervals) or a positive number")
    if resamples == 0 or n_clusters < 2:
        return None
    sums = sum_clusters(values, bonafide, cluster, n_clusters)
    return percentile_intervals(resample_metrics([sums], resamples, seed)[0])


def seed_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 1234,
) -> tuple[Metrics, Intervals]:
    """Estimate the mean metrics over training runs and 95 % intervals over speakers and runs.

    Each resample draws the speakers, the same for all runs, and the runs.

    Args:
        scores: (S, N) one row per training run of the same configuration, or (N,) for one.
        labels: (N,) 1 = bona fide, 0 = spoof.
        clusters: (N,) integers; trials of one speaker have the same.
        resamples: number of resamples, at least 1.
        seed: of the random draws.

    Returns:
        Means over the runs (that of `eer_threshold` too, which tells nothing when the runs scale
        their scores differently), and the intervals of the means. With one run they are those of
        `bootstrap_intervals`.

    Raises:
        ScoreError: as for `compute_metrics`, naming the run; not one cluster per trial, fewer than
            two clusters, or no resamples.
    """
    runs = prepare_runs("scores", scores, labels, clusters, resamples)
    draws = resample_metrics(runs.sums, resamples, seed)
    return runs.mean(), percentile_intervals(draw_runs(draws, run_generator(seed)))


def prepare_runs(
    argument: str, scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, resamples: int
) -> Runs:
    """Check the scores (S, N) or (N,) of the argument so named and make them ready to resample.

    Raises:
        ScoreError: as for `seed_intervals`.
    """
    if resamples < 1:
        raise ScoreError(f"resamples is {resamples}; give a positive number, such as 1000")
    try:
        rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"{argument} must be numbers, as many for each run ({error}); give an array (N,) or "
            "(runs, N)"
        ) from error
    if rows.ndim != 2 or len(rows) == 0:
        raise ScoreError(f"{argument} have shape {rows.shape}; give an array (N,) or (runs, N)")
    cluster, n_clusters = index_clusters(clusters, rows.shape[1])
    metrics, sums = [], []
    for number, row in enumerate(rows):
        try:
            values, bonafide = check_scores(row, labels)
        except ScoreError as error:
            raise ScoreError(f"{argument}, run {number}: {error}") from error
        metrics.append(compute_metrics(values, bonafide))
        sums.append(sum_clusters(values, bonafide, cluster, n_clusters))
    if n_clusters < 2:
        raise ScoreError(
            "all trials belong to one cluster (speaker), so no interval can be drawn; give trials "
            "of at least two speakers"
        )
    return Runs(tuple(metrics), tuple(sums), n_clusters)


def run_generator(seed: int) -> np.random.Generator:
    """Return the generator that draws runs, independent of the one that draws speakers."""
    return np.random.default_rng((seed, 1))


def draw_runs(draws: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Average resampled metrics (S, resamples, 4) over runs drawn anew for each resample.

    S - 1 runs are drawn of S: drawing S would give (S - 1) / S of the variance of the mean, too
    little by a third for three runs.

    Returns:
        float64 (resamples, 4).

    Source: Rao and Wu, Resampling inference with complex survey data, 1988.
    """
    n_runs, resamples, _ = draws.shape
    drawn = max(n_runs - 1, 1)
    counts = rng.multinomial(drawn, np.full(n_runs, 1.0 / n_runs), size=resamples)
    return np.einsum("rs,srm->rm", counts, draws) / drawn


def percentile_intervals(draws: NDArray[np.float64]) -> Intervals:
    """Return the central 95 % of resampled metrics (resamples, 4)."""
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(draws, (tail, 1.0 - tail), axis=0).tolist()
    return Intervals(*zip(low, high, strict=True))
