"""Confidence intervals of the metrics by a bootstrap over speakers.

Trials of one speaker are not independent, so whole speakers are drawn with replacement, not
trials (cluster bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.metrics import (
    BAYES_THRESHOLD,
    FALSE_ALARM_WEIGHT,
    MISS_WEIGHT,
    check_scores,
)

LEVEL = 0.95
# Sorted trials are counted in at most this many cells, so the cost does not grow with the trials.
# Up to this many trials every cell is one trial and nothing is approximated.
MAX_CELLS = 4096
# Trials whose speaker is unknown are independent as far as anyone can tell; they are dealt into
# this many clusters, which keeps the counts small and estimates the same spread.
MAX_UNKNOWN_CLUSTERS = 1000
_BLOCK = 64

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals (low, high) of the metrics, in the units of `Metrics`."""

    eer: Interval
    min_dcf: Interval
    act_dcf: Interval
    cllr: Interval


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

    Each resample gives every cluster a weight (how often it was drawn); the rates are weighted
    counts over one sorted array. A resample without one of the classes is drawn again. EER is
    the crossing of the two rates, between two operating points where it falls there.

    Args:
        scores: (N,) higher = bona fide.
        labels: (N,) 1 = bona fide, 0 = spoof.
        clusters: (N,) integers; trials of one speaker have the same.
        resamples: number of resamples; 0 for no intervals.
        seed: of the random draws.

    Returns:
        The 2.5 % and 97.5 % quantiles, or None with fewer than two clusters or no resamples.

    Raises:
        ScoreError: as for `compute_metrics`, or a negative number of resamples.
    """
    values, bonafide = check_scores(scores, labels)
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if resamples < 0:
        raise ScoreError(f"resamples is {resamples}; give 0 (no intervals) or a positive number")
    if resamples == 0 or names.size < 2:
        return None
    linear = _linear_sums(values, bonafide, cluster, names.size)
    counts = _cell_counts(values, bonafide, cluster, names.size)
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        weights = _draw_weights(rng, size, linear[:, :2])
        draws.append(_resampled_metrics(weights, linear, counts))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(np.concatenate(draws), (tail, 1.0 - tail), axis=0).tolist()
    return Intervals(*zip(low, high, strict=True))


def _linear_sums(
    values: NDArray[np.float64],
    bonafide: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    n_clusters: int,
) -> NDArray[np.float64]:
    """Per-cluster sums (n_clusters, 6) of what enters the metrics linearly.

    Columns: bona fide trials, spoof trials, misses and false alarms at the Bayes threshold,
    Cllr losses in nats of bona fide and of spoof.
    """
    spoof = ~bonafide
    terms = (
        bonafide,
        spoof,
        bonafide & (values < BAYES_THRESHOLD),
        spoof & (values >= BAYES_THRESHOLD),
        np.logaddexp(0.0, -values) * bonafide,
        np.logaddexp(0.0, values) * spoof,
    )
    sums = [np.bincount(cluster, weights=term, minlength=n_clusters) for term in terms]
    return np.stack(sums, axis=1)


def _cell_counts(
    values: NDArray[np.float64],
    bonafide: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    n_clusters: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Count bona fide and spoof trials per (cluster, cell); cells are ordered by score."""
    # Equal scores bona fide first, as in the official metrics.
    order = np.lexsort((~bonafide, values))
    n_cells = min(values.size, MAX_CELLS)
    cell = np.empty(values.size, dtype=np.int64)
    cell[order] = np.arange(values.size) * n_cells // values.size
    slot = cluster * n_cells + cell

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        # float32 holds these integers exactly and doubles the speed of the products.
        flat = np.bincount(slot[chosen], minlength=n_clusters * n_cells)
        return flat.reshape(n_clusters, n_cells).astype(np.float32)

    return count(bonafide), count(~bonafide)


def _draw_weights(
    rng: np.random.Generator, size: int, class_counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw how often each cluster occurs in each of `size` resamples that hold both classes."""
    n_clusters = len(class_counts)
    shares = np.full(n_clusters, 1.0 / n_clusters)
    weights = rng.multinomial(n_clusters, shares, size=size)
    while (degenerate := ~(weights @ class_counts > 0).all(axis=1)).any():
        weights[degenerate] = rng.multinomial(n_clusters, shares, size=int(degenerate.sum()))
    return weights.astype(np.float64)


def _resampled_metrics(
    weights: NDArray[np.float64],
    linear: NDArray[np.float64],
    counts: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Return EER, minDCF, actDCF, Cllr of each resample, (resamples, 4)."""
    sums = weights @ linear
    n_bonafide, n_spoof = sums[:, 0:1], sums[:, 1:2]
    light = weights.astype(np.float32)
    frr = np.cumsum(light @ counts[0], axis=1, dtype=np.float64) / n_bonafide
    far = 1.0 - np.cumsum(light @ counts[1], axis=1, dtype=np.float64) / n_spoof
    # The operating point that accepts everything costs exactly 1.
    min_dcf = np.minimum((MISS_WEIGHT * frr + FALSE_ALARM_WEIGHT * far).min(axis=1), 1.0)
    rates = sums[:, 2:] / np.concatenate((n_bonafide, n_spoof) * 2, axis=1)
    act_dcf = MISS_WEIGHT * rates[:, 0] + FALSE_ALARM_WEIGHT * rates[:, 1]
    cllr = (rates[:, 2] + rates[:, 3]) / (2.0 * math.log(2.0))
    return np.stack((_crossing(frr, far), min_dcf, act_dcf, cllr), axis=1)


def _crossing(frr: NDArray[np.float64], far: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rate at which frr and far meet, interpolated linearly, per row."""
    rows = np.arange(len(frr))
    after = np.argmax(frr >= far, axis=1)
    first = after == 0
    frr_before = np.where(first, 0.0, frr[rows, after - 1])
    far_before = np.where(first, 1.0, far[rows, after - 1])
    gap_before = far_before - frr_before
    gap_after = frr[rows, after] - far[rows, after]
    share = gap_before / (gap_before + gap_after)
    return frr_before + share * (frr[rows, after] - frr_before)
