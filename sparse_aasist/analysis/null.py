"""What information is measured when there is none: labels permuted, codes fixed.

Permuting labels leaves the margins of a contingency table alone, and every table with these margins
comes up as often as in a draw without replacement (Patefield, Applied Statistics 30, 1981). So the
tables are drawn, not the permutations: the cost does not grow with the utterances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.information import Information, information
from sparse_aasist.errors import SparseAasistError

LEVEL = 0.95
# With fewer permutations the 95 % quantile is the largest value.
MIN_PERMUTATIONS = 20
# Entries of the tables drawn at a time, 32 MB.
_BLOCK_ENTRIES = 4_000_000
_ROUNDING = 1e-12


def sample_null(tables: NDArray[np.int64], permutations: int, seed: int) -> Information:
    """Draw the information shares of permuted labels.

    The distribution of each dimension alone is exactly that of label permutation. Dimensions are
    drawn independently of each other, whereas a permutation would move all of them together: means
    over dimensions keep their expectation, but the spread of such a mean is that of unrelated
    dimensions, too narrow where dimensions are copies of each other.

    Args:
        tables: int64 (D, bins, F), observed; only their margins matter.
        permutations: P, at least 20.
        seed: of the draws.

    Returns:
        nmi (P, D, F) and total (P, D).

    Raises:
        SparseAasistError: too few permutations.
    """
    if permutations < MIN_PERMUTATIONS:
        raise SparseAasistError(
            f"permutations is {permutations}; a 95 % quantile needs at least {MIN_PERMUTATIONS}, "
            "100 is usual"
        )
    rng = np.random.default_rng(seed)
    dims, bins, n_classes = tables.shape
    nmi = np.empty((permutations, dims, n_classes))
    total = np.empty((permutations, dims))
    block = max(1, _BLOCK_ENTRIES // (permutations * bins * n_classes))
    per_class = tables[0].sum(axis=0)
    for start in range(0, dims, block):
        stop = min(start + block, dims)
        per_code = tables[start:stop].sum(axis=2)
        drawn = information(draw_tables(rng, per_code, per_class, permutations))
        nmi[:, start:stop], total[:, start:stop] = drawn.nmi, drawn.total
    return Information(nmi, total)


def draw_tables(
    rng: np.random.Generator,
    per_code: NDArray[np.int64],
    per_class: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """Draw contingency tables with given margins, as permuted labels would give them.

    Class by class, the rows of a class are dealt to the codes without replacement from what
    earlier classes left: one hypergeometric draw per code, given the codes before it.

    Args:
        rng: source of the draws.
        per_code: (D, bins) rows per code of each dimension.
        per_class: (F,) rows per class; the same sum.
        count: tables per dimension.

    Returns:
        int64 (count, D, bins, F).
    """
    dims, bins = per_code.shape
    n_classes = per_class.size
    # Cell by cell contiguous, because the draws go cell by cell.
    cells = np.empty((n_classes, bins, count, dims), dtype=np.int64)
    left = np.repeat(per_code.T[:, None, :], count, axis=1)
    for chosen in range(n_classes - 1):
        wanted = np.full((count, dims), per_class[chosen])
        pool = left.sum(axis=0)
        for code in range(bins - 1):
            pool -= left[code]
            draw = rng.hypergeometric(left[code], pool, wanted)
            cells[chosen, code] = draw
            wanted -= draw
        cells[chosen, bins - 1] = wanted
        left -= cells[chosen]
    cells[n_classes - 1] = left
    return cells.transpose(2, 3, 1, 0)


def p_values(observed: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (1 + number of null values >= observed) / (1 + P), one-sided, in (0, 1].

    Args:
        observed: (...,).
        null: (P, ...).
    """
    # Tables that differ but carry the same information differ in the last digits.
    reached = (null >= observed - _ROUNDING).sum(axis=0)
    return (1 + reached) / (1 + len(null))
