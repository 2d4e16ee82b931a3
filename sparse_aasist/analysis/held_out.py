"""Does an attack have a dimension of its own? Chosen on half of the trials, tested on the others.

With hundreds of dimensions some look dedicated by chance, and choosing the best and judging it on
the same trials would take that chance for a finding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.disentanglement import disentangle
from sparse_aasist.analysis.factors import Factor
from sparse_aasist.analysis.intervention import Intervention
from sparse_aasist.errors import NothingToMeasureError


def dedicated_dimensions(
    embeddings: NDArray[np.float32], factor: Factor, effects: Intervention, *, seed: int
) -> dict[str, Any] | None:
    """Look for a dimension that encodes and decides one attack and no other so much.

    For every attack the dimension with the largest M[d, f] - null is taken on half of its trials.
    It is confirmed when, on the other half, its largest share is above the null and of this very
    attack; it is causal when besides silencing it moves no other attack's EER further.

    Args:
        embeddings: float32 (N, D) of all trials.
        factor: attacks and bona fide.
        effects: of silencing each dimension.
        seed: of the halves.

    Returns:
        By attack its dimension, whether it is confirmed, and causal; None when a half has nothing
        to measure.
    """
    first, second = _halves(factor.labels, seed)
    try:
        chosen, tested = (
            disentangle(embeddings[factor.rows[half]], factor.labels[half], seed=seed)
            for half in (first, second)
        )
    except NothingToMeasureError:
        return None
    shift = np.abs(effects.silenced - effects.baseline)
    corrected = chosen.nmi - chosen.null_mean
    found = {}
    for column, attack in enumerate(chosen.factors):
        if attack not in effects.attacks:
            continue
        dim = int(corrected[:, column].argmax())
        # Named, because the halves need not list the classes alike.
        best = tested.factors[int(tested.nmi[dim].argmax())]
        confirmed = bool(tested.informative[dim]) and best == attack
        own = shift[dim, effects.attacks.index(attack)]
        found[attack] = {
            "dimension": dim,
            "confirmed": confirmed,
            "causal": confirmed and bool(own > 0) and bool(own >= shift[dim].max()),
        }
    return found


def _halves(labels: NDArray[np.str_], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal the rows of every class to two halves."""
    order = np.random.default_rng(seed).permutation(labels.size)
    order = order[np.argsort(labels[order], kind="stable")]
    return order[::2], order[1::2]
