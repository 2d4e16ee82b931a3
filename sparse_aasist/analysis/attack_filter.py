"""Which attacks a detector detects: the others have no place among the factors of its embedding.

Source: arXiv 2510.05696 keeps the attacks with an EER below 20 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sparse_aasist.data.protocol import ABSENT
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.metrics import check_scores, equal_error_rate, error_rates

EER_LIMIT = 0.2
"""An attack is detected when its EER is below."""


def detected_attacks(
    attacks: ArrayLike, scores: ArrayLike, labels: ArrayLike, limit: float = EER_LIMIT
) -> tuple[dict[str, float], dict[str, float]]:
    """Part the attacks by their EER, each against all bona fide trials.

    Args:
        attacks: (N,) attack names; those of bona fide trials are not read, "-" is no attack.
        scores: (N,) higher = bona fide.
        labels: (N,) 1 = bona fide, 0 = spoof.
        limit: a fraction; an attack is kept when its EER is below.

    Returns:
        EER (a fraction) by attack, of the kept and of the dropped attacks.

    Raises:
        SparseAasistError: as for `compute_metrics`, another number of attacks, or a limit outside
            (0, 1].
    """
    values, bonafide = check_scores(scores, labels)
    if not 0.0 < limit <= 1.0:
        raise SparseAasistError(f"limit is {limit}; give an EER as a fraction, 0.2 for 20 %")
    names = check_attacks(attacks, values.size)
    kept: dict[str, float] = {}
    dropped: dict[str, float] = {}
    for attack in sorted(set(names[~bonafide].tolist()) - {ABSENT}):
        chosen = bonafide | (names == attack)
        eer, _ = equal_error_rate(error_rates(values[chosen], bonafide[chosen]))
        (kept if eer < limit else dropped)[attack] = eer
    return kept, dropped


def check_attacks(attacks: ArrayLike, trials: int) -> np.ndarray:
    """Return attack names as strings (trials,).

    Raises:
        SparseAasistError: there is not one string per trial.
    """
    names = np.asarray(attacks)
    if names.shape != (trials,) or names.dtype.kind != "U":
        raise SparseAasistError(
            f"attacks have shape {names.shape} and type {names.dtype} for {trials} trials; give "
            "one name per trial"
        )
    return names
