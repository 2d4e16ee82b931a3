"""Detection metrics of ASVspoof5 track 1, vectorised: EER, minDCF, actDCF, Cllr.

Definitions and constants are those of the challenge's evaluation package
(asvspoof-challenge/asvspoof5: evaluation-package); docs/evaluation.md explains them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import ScoreError

SPOOF_PRIOR = 0.05
COST_MISS = 1.0
COST_FALSE_ALARM = 10.0

# The cost of the better trivial system, which decides the same for every trial.
_DEFAULT_COST = min(COST_MISS * (1.0 - SPOOF_PRIOR), COST_FALSE_ALARM * SPOOF_PRIOR)
MISS_WEIGHT = COST_MISS * (1.0 - SPOOF_PRIOR) / _DEFAULT_COST
FALSE_ALARM_WEIGHT = COST_FALSE_ALARM * SPOOF_PRIOR / _DEFAULT_COST
BAYES_THRESHOLD = -math.log(COST_MISS * (1.0 - SPOOF_PRIOR) / (COST_FALSE_ALARM * SPOOF_PRIOR))


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of trials; rates are fractions, Cllr is in bits."""

    eer: float
    eer_threshold: float
    min_dcf: float
    act_dcf: float
    cllr: float


@dataclass(frozen=True)
class ErrorRates:
    """Miss and false-alarm rates after rejecting the 0, 1, ..., N lowest scores.

    frr: share of bona fide trials rejected, float64 (N + 1,), rising from 0 to 1.
    far: share of spoofed trials accepted, float64 (N + 1,), falling from 1 to 0.
    thresholds: highest score rejected so far, float64 (N + 1,); the first is min - 0.001.
    """

    frr: NDArray[np.float64]
    far: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def compute_metrics(scores: ArrayLike, labels: ArrayLike) -> Metrics:
    """Compute EER, minDCF, actDCF and Cllr of one set of trials.

    EER = (frr + far) / 2 at the first smallest |frr - far|;
    minDCF = min(1.9 frr + far); actDCF is the same cost at the threshold -ln 1.9;
    Cllr = (mean log2(1 + e^-b) + mean log2(1 + e^s)) / 2 over bona fide b and spoof s.

    Equal scores are walked bona fide first, which is pessimistic: constant scores have an EER
    of 100 %. actDCF and Cllr read the scores as natural-log likelihood ratios.

    Args:
        scores: (N,) real numbers, higher = bona fide.
        labels: (N,) 1 = bona fide, 0 = spoof; both classes present.

    Returns:
        The metrics as fractions, Cllr in bits.

    Raises:
        ScoreError: no trials, different lengths, a score that is not finite, a label other than
            0 and 1, or one class absent.

    Source: ASVspoof5 evaluation plan, section 5; equal to the official package to 1e-9.

    >>> compute_metrics([2.0, 1.0, -1.0, -2.0], [1, 1, 0, 0]).eer
    0.0
    """
    values, bonafide = check_scores(scores, labels)
    rates = _walk(values, bonafide)
    eer, threshold = equal_error_rate(rates)
    return Metrics(
        eer=eer,
        eer_threshold=threshold,
        min_dcf=float(np.min(MISS_WEIGHT * rates.frr + FALSE_ALARM_WEIGHT * rates.far)),
        act_dcf=_actual_cost(values[bonafide], values[~bonafide]),
        cllr=_cllr(values[bonafide], values[~bonafide]),
    )


def error_rates(scores: ArrayLike, labels: ArrayLike) -> ErrorRates:
    """Compute the whole miss / false-alarm trade-off, the data of a DET curve.

    Args, Raises: as for `compute_metrics`.

    Returns:
        Rates at the N + 1 operating points, ordered by rising threshold.
    """
    return _walk(*check_scores(scores, labels))


def equal_error_rate(rates: ErrorRates) -> tuple[float, float]:
    """Return the official EER (a fraction) and the threshold it was found at."""
    index = int(np.argmin(np.abs(rates.frr - rates.far)))
    return float((rates.frr[index] + rates.far[index]) / 2), float(rates.thresholds[index])


def eer_rocch(scores: ArrayLike, labels: ArrayLike) -> float:
    """Compute the EER of the convex hull of the ROC, where equal scores count as one step.

    Unlike the official EER it interpolates: constant scores have 50 %. It is the largest error
    rate over all priors of the best threshold for each, max_p min_i (p frr_i + (1 - p) far_i).

    Args, Raises: as for `compute_metrics`.

    Returns:
        The fraction at which the lower convex hull of (far, frr) meets frr = far.

    Source: Brümmer and de Villiers, The BOSARIS Toolkit user guide, 2011.

    >>> eer_rocch([0.0, 0.0], [1, 0])
    0.5
    """
    rates = error_rates(scores, labels)
    # The hull's edge across the diagonal: start with the chord from end to end, and replace the
    # end on the same side by the point farthest below, until no point is below. Points within a
    # run of equal scores lie above its chord and need no merging.
    low, high = 0, rates.frr.size - 1
    while True:
        weight_frr, weight_far = rates.far[low] - rates.far[high], rates.frr[high] - rates.frr[low]
        between = slice(low, high + 1)
        costs = weight_frr * rates.frr[between] + weight_far * rates.far[between]
        lowest = low + int(np.argmin(costs))
        if lowest in (low, high):
            return float(costs[0] / (weight_frr + weight_far))
        if rates.frr[lowest] < rates.far[lowest]:
            low = lowest
        else:
            high = lowest


def check_scores(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Check scores and labels and return them as float64 values and a bona fide mask.

    Raises:
        ScoreError: as for `compute_metrics`.
    """
    try:
        values = np.asarray(scores, dtype=np.float64)
        classes = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"scores and labels must be numbers ({error}); give floats and 1 (bona fide) or "
            "0 (spoof)"
        ) from error
    if values.ndim != 1 or values.shape != classes.shape:
        raise ScoreError(
            f"scores have shape {values.shape} and labels {classes.shape}; give one score and "
            "one label per trial, both one-dimensional"
        )
    if values.size == 0:
        raise ScoreError("scores are empty; give at least one bona fide and one spoof trial")
    faulty = np.flatnonzero(~np.isfinite(values))
    if faulty.size:
        raise ScoreError(
            f"scores[{faulty[0]}] is {values[faulty[0]]} ({faulty.size} of {values.size} scores "
            "are not finite); find out why the model returned it and score again"
        )
    bonafide = classes == 1
    unknown = np.flatnonzero(~bonafide & (classes != 0))
    if unknown.size:
        raise ScoreError(
            f"labels[{unknown[0]}] is {classes[unknown[0]]:g}; labels must be 1 (bona fide) or "
            "0 (spoof)"
        )
    for name, present in (("bona fide (1)", bonafide.any()), ("spoof (0)", not bonafide.all())):
        if not present:
            raise ScoreError(f"labels hold no {name} trial; error rates need both classes")
    return values, bonafide


def _walk(values: NDArray[np.float64], bonafide: NDArray[np.bool_]) -> ErrorRates:
    """Reject the trials one by one from the lowest score up, bona fide first among equals."""
    # PARITY: the official package sorts (bona fide, spoof) stably, hence the concatenation.
    ordered = np.concatenate((values[bonafide], values[~bonafide]))
    n_bonafide = int(np.count_nonzero(bonafide))
    n_spoof = values.size - n_bonafide
    order = np.argsort(ordered, kind="stable")
    rejected = np.zeros(values.size + 1, dtype=np.int64)
    np.cumsum(order < n_bonafide, out=rejected[1:])
    accepted = n_spoof - (np.arange(values.size + 1) - rejected)
    thresholds = np.concatenate(([ordered[order[0]] - 0.001], ordered[order]))
    return ErrorRates(rejected / n_bonafide, accepted / n_spoof, thresholds)


def _actual_cost(bonafide: NDArray[np.float64], spoof: NDArray[np.float64]) -> float:
    frr = int(np.count_nonzero(bonafide < BAYES_THRESHOLD)) / bonafide.size
    far = int(np.count_nonzero(spoof >= BAYES_THRESHOLD)) / spoof.size
    return MISS_WEIGHT * frr + FALSE_ALARM_WEIGHT * far


def _cllr(bonafide: NDArray[np.float64], spoof: NDArray[np.float64]) -> float:
    # logaddexp(0, x) = ln(1 + e^x) without overflow; the official package gives inf beyond 709.
    nats = np.mean(np.logaddexp(0.0, -bonafide)) + np.mean(np.logaddexp(0.0, spoof))
    return float(nats / (2.0 * math.log(2.0)))
