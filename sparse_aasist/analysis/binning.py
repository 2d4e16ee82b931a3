"""Embeddings to discrete codes, one per dimension, on which information is counted.

Source: arXiv 2510.05696 measures mutual information between dimensions and attacks; 20 equal-width
bins are those of google-research/disentanglement_lib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import SparseAasistError

# The index is a byte.
MAX_BINS = 256
# One cache line of float32, so that each line of the row-major embeddings is read once.
_BLOCK = 16


@dataclass(frozen=True)
class Codes:
    """Discrete codes of embeddings.

    index: uint8 (N, D), in 0..bins-1; stored dimension by dimension, so a column is contiguous.
    bins: number of possible codes, used or not.
    """

    index: NDArray[np.uint8]
    bins: int


def bin_codes(embeddings: ArrayLike, rule: str = "equal_width", bins: int = 20) -> Codes:
    """Bin each dimension of the embeddings by itself.

    equal_width: bins of equal width between the dimension's smallest and largest value.
    zero_aware: one bin for exact zero, bins - 1 quantile bins of the other values; quantiles that
        coincide merge, so equal values are never parted and some bins stay empty.
    on_off: zero or not; two bins whatever `bins` says.

    Args:
        embeddings: (N, D) real numbers, used as float32; after TopK most are exactly zero.
        rule: "equal_width", "zero_aware" or "on_off".
        bins: 2..256.

    Returns:
        The codes; a constant dimension has one code only.

    Raises:
        SparseAasistError: embeddings are not two-dimensional, empty, no numbers or not finite
            (names the row), the rule is unknown, or bins is out of range.

    >>> bin_codes([[0.0], [1.0], [3.9], [4.0]], bins=4).index[:, 0].tolist()
    [0, 1, 3, 3]
    """
    if rule not in _RULES:
        raise SparseAasistError(f"rule is {rule!r}; choose one of {', '.join(_RULES)}")
    if not 2 <= bins <= MAX_BINS:
        raise SparseAasistError(f"bins is {bins}; choose a number from 2 to {MAX_BINS}")
    values = check_embeddings(embeddings)
    rows, dims = values.shape
    index = np.empty((dims, rows), dtype=np.uint8)
    for start in range(0, dims, _BLOCK):
        block = np.ascontiguousarray(values[:, start : start + _BLOCK].T)
        for offset, column in enumerate(block):
            index[start + offset] = _RULES[rule](column, bins)
    return Codes(index.T, 2 if rule == "on_off" else bins)


def check_embeddings(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Return embeddings as float32 (N, D), without a copy where they are that already.

    Raises:
        SparseAasistError: as for `bin_codes`.
    """
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SparseAasistError(
            f"embeddings must be numbers ({error}); give one row per utterance"
        ) from error
    if values.ndim != 2 or values.size == 0:
        raise SparseAasistError(
            f"embeddings have shape {values.shape}; give (utterances, dimensions), at least one "
            "of each"
        )
    faulty = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if faulty.size:
        raise SparseAasistError(
            f"embeddings[{faulty[0]}] holds a value that is not a finite float32 ({faulty.size} "
            f"of {len(values)} rows do); find out why the model returned it"
        )
    return values


def _equal_width(values: NDArray[np.float32], bins: int) -> NDArray[np.integer]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(values.size, dtype=np.uint8)
    # float64: the width of a float32 range can overflow float32.
    code = ((values.astype(np.float64) - low) * (bins / (high - low))).astype(np.int16)
    # The largest value closes the last bin.
    return np.minimum(code, bins - 1)


def _zero_aware(values: NDArray[np.float32], bins: int) -> NDArray[np.integer]:
    code = np.zeros(values.size, dtype=np.uint8)
    active = values != 0
    kept = values[active]
    if kept.size:
        # Quantiles that are values of the sample: the smallest with a share i / (bins - 1) below.
        ranks = -(-np.arange(1, bins - 1) * kept.size // (bins - 1)) - 1
        edges = np.unique(np.sort(kept)[ranks])
        level = np.ones(kept.size, dtype=np.uint8)
        # For a score of edges, comparing with each is several times faster than a search.
        for edge in edges:
            level += kept > edge
        code[active] = level
    return code


def _on_off(values: NDArray[np.float32], bins: int) -> NDArray[np.integer]:
    return (values != 0).astype(np.uint8)


_RULES: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.integer]]] = {
    "equal_width": _equal_width,
    "zero_aware": _zero_aware,
    "on_off": _on_off,
}
