"""What a dimension may encode: attacks first, then codec, gender, speaker and acoustics.

A factor sorts trials into classes. Attacks are compared with each other and with bona fide speech;
gender, speaker and acoustics on bona fide speech only, where no attack can stand in for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import ABSENT, BONAFIDE, Trial

MIN_PER_CLASS = 10
"""Classes with fewer trials tell more about those trials than about the class."""
MAX_SPEAKERS = 10
"""The speakers with most trials; as many as the speaker clusters of the conference paper."""


@dataclass(frozen=True)
class Factor:
    """A sorting of some trials into classes.

    name: of the factor.
    rows: int64 (n,), positions of the trials that have a class.
    labels: str (n,), their classes, at least two different ones.
    """

    name: str
    rows: NDArray[np.int64]
    labels: NDArray[np.str_]


def attack_factor(trials: Sequence[Trial], excluded: frozenset[str] = frozenset()) -> Factor | None:
    """Sort trials by attack, bona fide being a class; leave the attacks `excluded` out.

    Returns:
        The factor, or None with fewer than two classes of `MIN_PER_CLASS` trials.
    """
    attacks = np.array([trial.attack for trial in trials])
    return _factor("attack", attacks, ~np.isin(attacks, [*excluded, ABSENT]))


def other_factors(
    trials: Sequence[Trial], acoustics: Mapping[str, ArrayLike] | None = None
) -> tuple[dict[str, Factor], tuple[str, ...]]:
    """Sort trials by codec, and bona fide ones by gender, speaker and acoustic tertiles.

    Args:
        trials: of one split.
        acoustics: for each property float64 (N,), NaN where it could not be measured; those trials
            stay out.

    Returns:
        The factors by name, and the names of those left out because the protocol does not tell
        them apart or fewer than two of their classes have `MIN_PER_CLASS` trials.
    """
    bonafide = np.array([trial.label == BONAFIDE for trial in trials])
    codec = np.array([trial.codec for trial in trials])
    gender = np.array([trial.gender for trial in trials])
    speaker = np.array([trial.speaker for trial in trials])
    candidates = {
        # Uncoded trials ("-") are a condition like the others.
        "codec": _factor("codec", codec, np.ones(len(trials), dtype=bool)),
        "gender": _factor("gender", gender, bonafide & (gender != ABSENT)),
        "speaker": _factor("speaker", speaker, bonafide & _is_frequent(speaker, bonafide)),
    }
    for name, values in (acoustics or {}).items():
        measured = np.asarray(values, dtype=np.float64)
        known = bonafide & np.isfinite(measured)
        candidates[name] = _factor(name, _tertiles(measured, known), known)
    factors = {name: factor for name, factor in candidates.items() if factor is not None}
    return factors, tuple(name for name in candidates if name not in factors)


def _factor(name: str, labels: NDArray[np.str_], chosen: NDArray[np.bool_]) -> Factor | None:
    classes, counts = np.unique(labels[chosen], return_counts=True)
    large = classes[counts >= MIN_PER_CLASS]
    if large.size < 2:
        return None
    rows = np.flatnonzero(chosen & np.isin(labels, large))
    return Factor(name, rows, labels[rows])


def _is_frequent(speaker: NDArray[np.str_], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    names, counts = np.unique(speaker[chosen & (speaker != ABSENT)], return_counts=True)
    return np.isin(speaker, names[np.argsort(-counts, kind="stable")[:MAX_SPEAKERS]])


def _tertiles(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.str_]:
    if not known.any():
        return np.full(values.shape, "low")
    edges = np.quantile(values[known], (1 / 3, 2 / 3))
    return np.array(["low", "middle", "high"])[np.searchsorted(edges, values, side="left")]
