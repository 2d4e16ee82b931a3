"""Small tests over training runs and attacks that verdicts rest on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def welch_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return mean(a) - mean(b) and its 95 % interval by Welch's t with unequal variances.

    Args:
        a, b: at least two values each.
    """
    from scipy.stats import t

    difference = float(np.mean(a) - np.mean(b))
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (a, b)]
    variance = sum(parts)
    if variance == 0.0:
        return difference, difference, difference
    # Welch and Satterthwaite's degrees of freedom.
    freedom = variance**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)
    )
    reach = float(t.ppf(0.975, freedom)) * variance**0.5
    return difference, difference - reach, difference + reach


def rank_test(runs: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Test whether two quantities of the same cases rise together, over several runs.

    The statistic is the mean over runs of Spearman's rho (0 where a quantity is constant). Runs
    see the same cases, so the permutation is over cases and the same for all runs.

    Args:
        runs: (2, cases) each, the cases in the same order; at least two cases.

    Returns:
        The mean rho and its two-sided p-value, exact for up to seven cases.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.stack(runs), axis=2)
    ranks -= ranks.mean(axis=2, keepdims=True)
    size = np.sqrt((ranks**2).sum(axis=2, keepdims=True))
    ranks /= np.where(size > 0, size, 1.0)
    cases = ranks.shape[2]
    if cases <= 7:
        orders = np.array(list(itertools.permutations(range(cases))))
    else:
        rng = np.random.default_rng(1234)
        orders = np.array([range(cases), *(rng.permutation(cases) for _ in range(9999))])
    # The first order is the observed one.
    means = np.einsum("rc,roc->o", ranks[:, 0], ranks[:, 1][:, orders]) / len(runs)
    extreme = np.abs(means) >= abs(means[0]) - 1e-12
    return float(means[0]), float(extreme.mean())
