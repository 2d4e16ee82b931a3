"""What the analysis of a model says about one dimension: its block, its classes, its effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_aasist.analysis.model_analysis import BLOCKS
from sparse_aasist.errors import SparseAasistError


@dataclass(frozen=True)
class Tie:
    """A class of dev on which a dimension has more information than chance.

    attack: name, "bonafide" for bona fide speech.
    nmi: M[d, f], share of the entropy of "is of this class" that the dimension removes.
    null_quantile: 95 % quantile of that with permuted labels.
    p_value: share of permutations that reach it.
    """

    attack: str
    nmi: float
    null_quantile: float
    p_value: float


@dataclass(frozen=True)
class Shift:
    """The dev EER (a fraction) of one attack, as the model is and with a dimension silenced."""

    attack: str
    eer: float
    eer_silenced: float


def block_of(dimension: int, dims: int) -> str:
    """Return the readout block of a dimension of an embedding of width `dims`."""
    return BLOCKS[dimension * len(BLOCKS) // dims]


def ties_of(analysis: Mapping[str, Any], dimension: int) -> tuple[Tie, ...]:
    """Return the classes that a dimension goes with, the strongest first; none above chance: ().

    Both limits must be passed: the dimension's largest M that of its null over all classes, and
    each M its own null. The second alone would let one class in twenty through by chance.

    Args:
        analysis: from `analyse`; all attacks of the split are read, detected or not, as in its
            intervention.
        dimension: 0..D-1.

    Raises:
        SparseAasistError: the analysis has no such dimension.
    """
    _check(analysis, dimension)
    found = analysis["all_attacks"]
    if found is None or not found["informative"][dimension]:
        return ()
    columns = (found[key][dimension] for key in ("nmi", "null_quantile", "p_value"))
    ties = (Tie(*entry) for entry in zip(found["factors"], *columns, strict=True))
    above = [tie for tie in ties if tie.nmi > tie.null_quantile]
    return tuple(sorted(above, key=lambda tie: -tie.nmi))


def largest_shift(analysis: Mapping[str, Any], dimension: int) -> Shift | None:
    """Return the attack whose dev EER moves most when a dimension is silenced; None if none does.

    Raises:
        SparseAasistError: the analysis has no such dimension.
    """
    _check(analysis, dimension)
    effects = analysis["intervention"]
    before, after = effects["baseline"], effects["silenced"][dimension]
    moved = np.abs(np.subtract(after, before))
    best = int(moved.argmax())
    if moved[best] == 0.0:
        return None
    return Shift(effects["attacks"][best], before[best], after[best])


def _check(analysis: Mapping[str, Any], dimension: int) -> None:
    """Make sure that an analysis has a dimension.

    Raises:
        SparseAasistError: it has not.
    """
    dims = len(analysis["intervention"]["silenced"])
    if not 0 <= dimension < dims:
        raise SparseAasistError(
            f"dimension is {dimension}, but the analysis is of a model with {dims}; analyse the "
            "same model"
        )
