"""Which attack a dimension decides: silence or boost it and recompute every attack's EER.

Information says that a dimension differs between attacks; this says whether the classifier uses it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.analysis.attack_filter import check_attacks
from sparse_aasist.analysis.binning import check_embeddings
from sparse_aasist.analysis.readings import plain
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.metrics import check_scores

_DIM_BLOCK = 16
_ROW_BLOCK = 8192


@dataclass(frozen=True)
class Intervention:
    """EERs (fractions) of each attack against all bona fide trials, as is and after a change.

    attacks: names of the A attacks, sorted.
    baseline: (A,) as the model is.
    silenced: (D, A) with dimension d set to 0 after TopK; nothing moves up into its place.
    boosted: (D, A) with dimension d doubled.
    """

    attacks: tuple[str, ...]
    baseline: NDArray[np.float64]
    silenced: NDArray[np.float64]
    boosted: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return the rates for JSON, to six significant digits."""
        return {
            "attacks": list(self.attacks),
            "baseline": plain(self.baseline),
            "silenced": plain(self.silenced),
            "boosted": plain(self.boosted),
        }


def intervene(
    embeddings: ArrayLike,
    delta: ArrayLike,
    bias: float,
    attacks: ArrayLike,
    labels: ArrayLike,
) -> Intervention:
    """Recompute the EER of every attack with each dimension silenced, then doubled.

    score = sum_d h_d delta_d + bias; silenced: score - h_d delta_d; doubled: score + h_d delta_d,
    in float64. EER is the official one (`compute_metrics`).

    Args:
        embeddings: (N, D) h after TopK, used as float32.
        delta: (D,) head weights of bona fide less those of spoof.
        bias: the same of the head's biases.
        attacks: (N,) attack names; those of bona fide trials are not read.
        labels: (N,) 1 = bona fide, 0 = spoof.

    Returns:
        The rates; a dimension that is never active or has no weight keeps the baseline.

    Raises:
        SparseAasistError: embeddings as for `bin_codes`, delta or bias of another shape or not
            finite, attacks or labels that do not fit, or one class absent.
    """
    values = check_embeddings(embeddings)
    weights = _check_delta(delta, bias, values.shape[1])
    scores = _scores(values, weights, float(bias))
    _, bonafide = check_scores(scores, labels)
    names = check_attacks(attacks, len(values))
    kinds = np.unique(names[~bonafide])
    group = np.where(bonafide, 0, 1 + np.searchsorted(kinds, names))
    order = np.argsort(group, kind="stable")
    bounds = np.cumsum(np.bincount(group))[:-1]
    scores = scores[order]

    baseline = _error_rates_by_attack(scores, bounds)
    silenced, boosted = (np.tile(baseline, (weights.size, 1)) for _ in range(2))
    for start in range(0, weights.size, _DIM_BLOCK):
        block = np.ascontiguousarray(values[:, start : start + _DIM_BLOCK].T)
        for dim, column in enumerate(block, start):
            if weights[dim] == 0 or not column.any():
                continue
            share = column[order] * weights[dim]
            silenced[dim] = _error_rates_by_attack(scores - share, bounds)
            boosted[dim] = _error_rates_by_attack(scores + share, bounds)
    return Intervention(tuple(kinds.tolist()), baseline, silenced, boosted)


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation and its two-sided p-value per factor; None where undefined."""

    rho: tuple[float | None, ...]
    p_value: tuple[float | None, ...]


def agreement(nmi: ArrayLike, effect: ArrayLike) -> Agreement:
    """Tell per factor whether dimensions that know of it also decide it.

    Spearman's rho between M[:, f] and |effect[:, f]| over the dimensions alive, which are those
    whose row of M is not all zero. The p-value takes dimensions as independent.

    Args:
        nmi: (D, F) information shares.
        effect: (D, F) shifts of the EER, the columns in the order of those of nmi.

    Returns:
        One entry per factor; None with fewer than three dimensions alive or a constant column.

    Raises:
        SparseAasistError: the shapes differ or are not two-dimensional, or a value is not finite.
    """
    from scipy.stats import spearmanr

    shares, shifts = np.asarray(nmi, dtype=np.float64), np.asarray(effect, dtype=np.float64)
    if shares.ndim != 2 or shares.shape != shifts.shape:
        raise SparseAasistError(
            f"nmi has shape {shares.shape} and effect {shifts.shape}; give (dimensions, factors) "
            "for both, with the same factors"
        )
    if not (np.isfinite(shares).all() and np.isfinite(shifts).all()):
        raise SparseAasistError("nmi or effect holds a value that is not finite; recompute it")
    alive = shares.any(axis=1)
    pairs: list[tuple[float | None, float | None]] = []
    for known, moved in zip(shares[alive].T, np.abs(shifts[alive]).T, strict=True):
        if known.size < 3 or np.ptp(known) == 0 or np.ptp(moved) == 0:
            pairs.append((None, None))
        else:
            result = spearmanr(known, moved)
            pairs.append((float(result.statistic), float(result.pvalue)))
    return Agreement(tuple(rho for rho, _ in pairs), tuple(p for _, p in pairs))


def _check_delta(delta: ArrayLike, bias: float, dims: int) -> NDArray[np.float64]:
    weights = np.asarray(delta, dtype=np.float64)
    if weights.shape != (dims,) or not np.isfinite(weights).all() or not np.isfinite(bias):
        raise SparseAasistError(
            f"delta has shape {weights.shape} for embeddings of {dims} dimensions, or delta or "
            "bias is not finite; give the differences of the head's two rows, bona fide less spoof"
        )
    return weights


def _scores(
    values: NDArray[np.float32], weights: NDArray[np.float64], bias: float
) -> NDArray[np.float64]:
    # By blocks of rows: all of the embeddings in float64 would take twice their memory.
    blocks = [
        values[start : start + _ROW_BLOCK] @ weights for start in range(0, len(values), _ROW_BLOCK)
    ]
    return np.concatenate(blocks) + bias


def _error_rates_by_attack(
    scores: NDArray[np.float64], bounds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the EER of each group of scores after the first, which is bona fide."""
    bonafide, *spoofed = np.split(scores, bounds)
    bonafide = np.sort(bonafide)
    return np.array([_equal_error_rate(bonafide, np.sort(spoof)) for spoof in spoofed])


def _equal_error_rate(bonafide: NDArray[np.float64], spoof: NDArray[np.float64]) -> float:
    """Return the official EER of sorted scores, without walking them all.

    Each step of the walk raises frr - far, so the smallest |frr - far| is beside its change of
    sign, which bisection finds.
    """

    def gap(n_bonafide: int, n_spoof: int) -> float:
        return n_bonafide / bonafide.size - (spoof.size - n_spoof) / spoof.size

    def before(n_spoof: int) -> int:
        # Bona fide trials rejected when the next spoofed one's turn comes; they go first in ties.
        return int(bonafide.searchsorted(spoof[n_spoof], side="right"))

    steps = range(spoof.size)
    crossed = bisect_left(steps, True, key=lambda step: gap(before(step), step) >= 0)
    start = before(crossed - 1) if crossed else 0
    # The smallest number of bona fide trials with frr >= far; rounded up.
    needed = -(-(spoof.size - crossed) * bonafide.size // spoof.size)
    after = (max(start, needed), crossed)
    last = (start, crossed - 1) if needed <= start else (needed - 1, crossed)
    n_bonafide, n_spoof = last if abs(gap(*last)) <= abs(gap(*after)) else after
    return (n_bonafide / bonafide.size + (spoof.size - n_spoof) / spoof.size) / 2
