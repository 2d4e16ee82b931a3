"""Affine calibration of scores to log-likelihood ratios, and what they say about a trial.

Brümmer and du Preez, Application-independent evaluation of speaker detection, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.metrics import check_scores

# Weight of the square of the scale (of scores with unit deviation) beside a loss in nats. It
# keeps the scale finite when one threshold separates the classes and is invisible otherwise.
RIDGE = 1e-6
_MAX_STEPS = 100
_MAX_HALVINGS = 50
# Nats; the loss is summed to about 1e-16.
_TOLERANCE = 1e-13


@dataclass(frozen=True)
class Calibration:
    """The map from a score to a natural-log likelihood ratio, LLR = scale * score + offset.

    A scale of 0 says that the scores carry no usable information.
    """

    scale: float
    offset: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale < 0:
            raise ScoreError(
                f"calibration has scale {self.scale} and offset {self.offset}; both must be finite "
                "and the scale must not be negative: fit it again"
            )

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the log-likelihood ratios of finite `scores`, float64 of the same shape.

        Raises:
            ScoreError: a score is not finite.
        """
        return self.scale * _finite(scores, "scores") + self.offset

    def to_dict(self) -> dict[str, float]:
        """Return scale and offset for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, float]) -> Calibration:
        """Return the calibration that `to_dict` gave.

        Raises:
            ScoreError: other entries than scale and offset, or values that do not calibrate.
        """
        if set(entries) != {"scale", "offset"}:
            raise ScoreError(
                f"calibration has the entries {sorted(entries)}; give scale and offset alone"
            )
        try:
            return cls(scale=float(entries["scale"]), offset=float(entries["offset"]))
        except (TypeError, ValueError) as error:
            raise ScoreError(
                f"calibration must hold two numbers ({error}); fit it again"
            ) from error


def fit_calibration(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit the affine map to log-likelihood ratios that has the smallest Cllr.

    Minimises, by Newton's method, the logistic loss at a prior of 0.5, whatever the class sizes:
    (mean ln(1 + e^-(scale b + offset)) + mean ln(1 + e^(scale s + offset))) / 2
    over bona fide scores b and spoof scores s. That is Cllr ln 2, so no affine map has a smaller
    Cllr on these trials. Separable scores would have an infinite scale; RIDGE / 2 times the
    square of the scale per standard deviation of the scores is added, which keeps it finite.

    The scale is never negative. Where bona fide scores are not higher than spoof scores on
    average (an untrained model, a flipped direction) the best map with scale >= 0 is
    scale = offset = 0: every LLR is 0 and Cllr is 1 bit. Such LLRs all tie; take EER and
    minDCF from the scores themselves, which calibration otherwise leaves as they are.

    Args:
        scores: (N,) of trials not used in training, higher = bona fide.
        labels: (N,) 1 = bona fide, 0 = spoof; both classes present.

    Raises:
        ScoreError: as for `compute_metrics`.

    >>> fit_calibration([1.0, -1.0], [0, 1])
    Calibration(scale=0.0, offset=0.0)
    """
    values, bonafide = check_scores(scores, labels)
    # Divided first, so that neither sums nor squares of huge scores overflow.
    unit = float(np.abs(values).max()) or 1.0
    centred = values / unit
    centre = float(centred.mean())
    centred -= centre
    deviation = float(centred.std())
    # The slope of the loss at scale = offset = 0, and so the sign of the best scale.
    if deviation == 0.0 or centred[bonafide].mean() <= centred[~bonafide].mean():
        return Calibration(0.0, 0.0)
    scale, offset = _minimise(centred / deviation, bonafide).tolist()
    return Calibration(
        scale=max(scale, 0.0) / deviation / unit, offset=offset - scale * centre / deviation
    )


def probability(llr: ArrayLike, prior_bonafide: float) -> NDArray[np.float64]:
    """Return the probability that a trial is bona fide, 1 / (1 + e^-(llr + logit prior)).

    Args:
        llr: natural-log likelihood ratios, any shape.
        prior_bonafide: share of bona fide trials where the detector is used, in (0, 1).

    Raises:
        ScoreError: an `llr` is not finite, or the prior is not between 0 and 1.
    """
    if not 0.0 < prior_bonafide < 1.0:
        raise ScoreError(f"prior_bonafide is {prior_bonafide}; give a number between 0 and 1")
    log_odds = _finite(llr, "llr") + math.log(prior_bonafide / (1.0 - prior_bonafide))
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _minimise(values: NDArray[np.float64], bonafide: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return scale and offset for values with mean 0 and deviation 1."""
    sign = np.where(bonafide, 1.0, -1.0)
    weights = np.where(bonafide, 0.5 / bonafide.sum(), 0.5 / (~bonafide).sum())
    inputs = np.stack((values, np.ones_like(values)), axis=1)
    ridge = np.array([RIDGE, 0.0])

    def loss_at(point: NDArray[np.float64]) -> float:
        losses = np.logaddexp(0.0, -sign * (inputs @ point))
        return float(weights @ losses + ridge @ point**2 / 2)

    point = np.zeros(2)
    loss = loss_at(point)
    for _ in range(_MAX_STEPS):
        wrong = np.exp(-np.logaddexp(0.0, sign * (inputs @ point)))
        gradient = -(weights * sign * wrong) @ inputs + ridge * point
        curvature = weights * wrong * (1.0 - wrong)
        hessian = (inputs * curvature[:, None]).T @ inputs + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < _TOLERANCE:
            break
        # Far from the optimum a whole step may overshoot; the loss must fall.
        for _ in range(_MAX_HALVINGS):
            if loss_at(point - step) < loss:
                break
            step /= 2.0
        point = point - step
        loss = loss_at(point)
    return point


def _finite(numbers: ArrayLike, argument: str) -> NDArray[np.float64]:
    values = np.asarray(numbers, dtype=np.float64)
    faulty = np.flatnonzero(~np.isfinite(values))
    if faulty.size:
        raise ScoreError(
            f"{argument}: entry {faulty[0]} is {values.flat[faulty[0]]} ({faulty.size} of "
            f"{values.size} are not finite); find out why the model returned it"
        )
    return values
