"""Which class of training speech an embedding looks like, and how usual that distance is.

A nearest class always exists, so every distance comes with the share of the class's own training
members that are no farther from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.analysis.attack_filter import check_attacks
from sparse_aasist.analysis.binning import check_embeddings
from sparse_aasist.analysis.factors import MIN_PER_CLASS
from sparse_aasist.analysis.readings import plain
from sparse_aasist.data.protocol import ABSENT, BONAFIDE
from sparse_aasist.errors import SparseAasistError

UNLIKE_ABOVE = 0.99
"""Farther from a class than this share of its members is unlike the class."""

MAX_EXEMPLARS = 100
"""Of a class: enough to cover it, few enough for a file of a megabyte or two."""

# Of the members' distances: enough for a percentile, whatever the number of members.
_SHARES = np.linspace(0.0, 1.0, 101)
_ROUNDING = 1e-6
_TINY = np.finfo(np.float64).tiny

TrainingClasses = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Neighbour:
    """A class of training speech and how far an embedding is from it.

    attack: name, "bonafide" for bona fide speech.
    trials: members in training.
    distance: 1 - cosine to the nearest exemplar of the class, 0..2.
    farther_than: share of the members that are as near or nearer; 0.5 is a typical member.
    """

    attack: str
    trials: int
    distance: float
    farther_than: float


def describe_classes(embeddings: ArrayLike, attacks: ArrayLike) -> dict[str, dict[str, Any]]:
    """Describe every class of training speech by exemplars and the distances of its members.

    The distance of h from a class is min over its exemplars e of 1 - cos(h, e). Cosine, because it
    suits sparse and dense embeddings alike and leaves out the length, which grows with how sure the
    model is; Jaccard's distance of the active sets is constant for dense ones and told attacks
    apart less well. Exemplars rather than the mean, because the classes are wide: around the mean
    even noise and pure tones are within the usual (docs/explain.md has the numbers).

    Args:
        embeddings: (N, D) of training trials, used as float32.
        attacks: (N,) names, "bonafide" for bona fide trials; those of "-" stay out.

    Returns:
        By name: "trials"; "exemplars" (E, D), E at most 100 members spread evenly over
        the rows; "distances", 101 quantiles of the members' distances from the exemplars other
        than themselves. Classes with fewer than 10 trials are left out.

    Raises:
        SparseAasistError: embeddings as for `bin_codes`, or not one name per row.
    """
    values = check_embeddings(embeddings)
    names = check_attacks(attacks, len(values))
    classes = {}
    for name in sorted(set(names.tolist()) - {ABSENT}):
        members = values[names == name].astype(np.float64)
        if len(members) >= MIN_PER_CLASS:
            classes[name] = _describe(members)
    return classes


def _describe(members: NDArray[np.float64]) -> dict[str, Any]:
    count = min(len(members), MAX_EXEMPLARS)
    rows = np.linspace(0, len(members) - 1, count).round().astype(np.int64)
    unit = _unit(members)
    cosines = unit @ unit[rows].T
    cosines[rows, np.arange(count)] = -1.0  # nobody is his own neighbour
    distances = 1.0 - cosines.max(axis=1)
    return {
        "trials": len(members),
        "exemplars": plain(members[rows]),
        "distances": plain(np.quantile(distances, _SHARES)),
    }


def nearest_classes(embedding: ArrayLike, classes: TrainingClasses) -> tuple[Neighbour, ...]:
    """Rank classes by their distance from one embedding, the nearest first.

    Args:
        embedding: (D,).
        classes: from `describe_classes`.

    Raises:
        SparseAasistError: the embedding is not of the classes' width, or there are no classes.
    """
    row = np.asarray(embedding, dtype=np.float64)[None]
    distances, shares = _compare(row, classes)
    found = [
        Neighbour(name, int(classes[name]["trials"]), float(distance), float(share))
        for name, distance, share in zip(classes, distances[0], shares[0], strict=True)
    ]
    return tuple(sorted(found, key=lambda neighbour: neighbour.distance))


def is_unlike(neighbours: tuple[Neighbour, ...]) -> bool:
    """Tell whether an embedding is farther from every class than 99 % of its members."""
    return all(neighbour.farther_than > UNLIKE_ABOVE for neighbour in neighbours)


def unlike_share(embeddings: ArrayLike, classes: TrainingClasses) -> float:
    """Return the share of embeddings (N, D) that `is_unlike` would flag, 0..1.

    On trials that were not trained on this tells how much the flag means: of such speech as in
    training it flags too many where a model has learnt its training trials by heart.

    Raises:
        SparseAasistError: as for `nearest_classes`.
    """
    _, shares = _compare(np.asarray(embeddings, dtype=np.float64), classes)
    return float((shares > UNLIKE_ABOVE).all(axis=1).mean())


def compare_with_training(
    training: ArrayLike, attacks: ArrayLike, held_out: ArrayLike, labels: ArrayLike
) -> dict[str, Any]:
    """Describe the classes of training, and how much of other speech is unlike all of them.

    Args:
        training: (N, D) embeddings of training trials.
        attacks: (N,) their names.
        held_out: (M, D) embeddings of other trials.
        labels: (M,) 1 bona fide, 0 spoof.

    Returns:
        "train_attacks" as `describe_classes` gives them, and, where there are any,
        "unlike_training": the shares of bona fide and of spoofed trials held out.

    Raises:
        SparseAasistError: as for `describe_classes` and `nearest_classes`.
    """
    classes = describe_classes(training, attacks)
    if not classes:
        return {"train_attacks": {}}
    rows, bonafide = check_embeddings(held_out), np.asarray(labels) == BONAFIDE
    shares = {
        "bonafide": unlike_share(rows[bonafide], classes),
        "spoof": unlike_share(rows[~bonafide], classes),
    }
    return {"train_attacks": classes, "unlike_training": shares}


def _compare(
    rows: NDArray[np.float64], classes: TrainingClasses
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances and shares of nearer members, (N, classes) both."""
    if not classes:
        raise SparseAasistError(
            f"there are no classes of training speech; training needs {MIN_PER_CLASS} labelled "
            "trials of one attack for that"
        )
    dims = len(next(iter(classes.values()))["exemplars"][0])
    if rows.shape[1] != dims:
        raise SparseAasistError(
            f"the embedding has {rows.shape[1]} dimensions and the training classes {dims}; "
            "analyse the same model"
        )
    unit = _unit(rows)
    exemplars = (_unit(np.asarray(entry["exemplars"])) for entry in classes.values())
    distances = np.stack([1.0 - (unit @ each.T).max(axis=1) for each in exemplars], axis=1)
    shares = []
    for column, entry in zip(distances.T, classes.values(), strict=True):
        share = np.interp(column, entry["distances"], _SHARES)
        # Among equal quantiles the last is found; who is no farther than most members is like them.
        usual = column <= np.interp(UNLIKE_ABOVE, _SHARES, entry["distances"]) + _ROUNDING
        shares.append(np.where(usual, np.minimum(share, UNLIKE_ABOVE), share))
    return distances, np.stack(shares, axis=1)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows (N, D) at length 1, so that products are cosines; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
