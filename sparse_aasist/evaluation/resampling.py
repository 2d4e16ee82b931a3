"""The bootstrap over clusters that intervals and comparisons share.

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
from sparse_aasist.evaluation.metrics import BAYES_THRESHOLD, FALSE_ALARM_WEIGHT, MISS_WEIGHT

# The order of the last axis of all resampled figures.
METRIC_NAMES = ("eer", "min_dcf", "act_dcf", "cllr")
# Sorted trials are counted in at most this many cells, so the cost does not grow with the trials.
# Up to this many trials every cell is one trial and nothing is approximated.
MAX_CELLS = 4096
_BLOCK = 64


@dataclass(frozen=True)
class ClusterSums:
    """The scored trials of one system summed per cluster: all that a resample needs.

    linear: float64 (n_clusters, 6), what enters the metrics linearly: bona fide trials, spoof
        trials, misses and false alarms at the Bayes threshold, Cllr losses in nats of bona fide
        and of spoof.
    bonafide, spoof: float32 (n_clusters, n_cells), trials per cell; cells are ordered by score.
    """

    linear: NDArray[np.float64]
    bonafide: NDArray[np.float32]
    spoof: NDArray[np.float32]


def index_clusters(clusters: ArrayLike, n_trials: int) -> tuple[NDArray[np.int64], int]:
    """Return each trial's cluster as an index from 0, (n_trials,), and the number of clusters.

    Raises:
        ScoreError: there is not one cluster per trial.
    """
    given = np.asarray(clusters)
    if given.shape != (n_trials,):
        raise ScoreError(
            f"clusters have shape {given.shape} for {n_trials} trials; give one cluster (speaker) "
            "per trial"
        )
    names, index = np.unique(given, return_inverse=True)
    return index, names.size


def sum_clusters(
    values: NDArray[np.float64],
    bonafide: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    n_clusters: int,
) -> ClusterSums:
    """Sum checked scores (N,) per cluster (N,), an index below `n_clusters`."""
    return ClusterSums(
        _linear_sums(values, bonafide, cluster, n_clusters),
        *_cell_counts(values, bonafide, cluster, n_clusters),
    )


def resample_metrics(
    systems: Sequence[ClusterSums], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Compute the metrics of every system on the same resamples of the clusters.

    Each resample gives every cluster a weight (how often it was drawn); the rates are weighted
    counts over one sorted array. A resample without one of the classes is drawn again. EER is
    the crossing of the two rates, between two operating points where it falls there.

    Args:
        systems: sums over the same trials and clusters; at least one.
        resamples: at least 1.
        seed: of the random draws, at least 0.

    Returns:
        float64 (systems, resamples, 4), metrics in the order of METRIC_NAMES.

    Raises:
        ScoreError: `seed` is negative.
    """
    if seed < 0:
        raise ScoreError(f"seed is {seed}; give 0 or a positive integer")
    rng = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        weights = _draw_weights(rng, size, systems[0].linear[:, :2])
        blocks.append([weighted_metrics(weights, sums) for sums in systems])
    return np.concatenate(blocks, axis=1)


def weighted_metrics(weights: NDArray[np.float64], sums: ClusterSums) -> NDArray[np.float64]:
    """Return the metrics (resamples, 4) under cluster weights (resamples, n_clusters)."""
    totals = weights @ sums.linear
    n_bonafide, n_spoof = totals[:, 0:1], totals[:, 1:2]
    light = weights.astype(np.float32)
    frr = np.cumsum(light @ sums.bonafide, axis=1, dtype=np.float64) / n_bonafide
    far = 1.0 - np.cumsum(light @ sums.spoof, axis=1, dtype=np.float64) / n_spoof
    # The operating point that accepts everything costs exactly 1.
    min_dcf = np.minimum((MISS_WEIGHT * frr + FALSE_ALARM_WEIGHT * far).min(axis=1), 1.0)
    rates = totals[:, 2:] / np.concatenate((n_bonafide, n_spoof) * 2, axis=1)
    act_dcf = MISS_WEIGHT * rates[:, 0] + FALSE_ALARM_WEIGHT * rates[:, 1]
    cllr = (rates[:, 2] + rates[:, 3]) / (2.0 * math.log(2.0))
    return np.stack((_crossing(frr, far), min_dcf, act_dcf, cllr), axis=1)


def _linear_sums(
    values: NDArray[np.float64],
    bonafide: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    n_clusters: int,
) -> NDArray[np.float64]:
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
