"""Mutual information between every dimension's code and every class, from one contingency table.

Because the classes partition the sample, the table code x class of a dimension holds the two-row
table of each one-vs-rest factor: the rest of a class is the code's total less that class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.analysis.binning import Codes
from sparse_aasist.analysis.classes import Classes
from sparse_aasist.errors import SparseAasistError

# Sums of n ln n over up to a million rows are exact to about 1e-14 nats; below this is nothing.
ROUNDING_NATS = 1e-13


@dataclass(frozen=True)
class Information:
    """Information shares of contingency tables, in [0, 1].

    nmi: float64 (..., F), M[d, f] = I(z_d; f) / H(f) of the binary factor "is of class f".
    total: float64 (...), I(z_d; class) / H(class) of the whole class label.
    """

    nmi: NDArray[np.float64]
    total: NDArray[np.float64]


def count_tables(codes: Codes, classes: Classes) -> NDArray[np.int64]:
    """Count the contingency table code x class of every dimension.

    Args:
        codes: of N rows and D dimensions.
        classes: of the same N rows; they must fit, which `read_classes` checks.

    Returns:
        int64 (D, bins, F).
    """
    n_classes = len(classes.names)
    cells = codes.bins * n_classes
    tables = np.empty((codes.index.shape[1], codes.bins, n_classes), dtype=np.int64)
    for dim, column in enumerate(codes.index.T):
        cell = column * np.int64(n_classes) + classes.index
        tables[dim] = np.bincount(cell, minlength=cells).reshape(codes.bins, n_classes)
    return tables


def information(tables: NDArray[np.int64]) -> Information:
    """Compute plug-in mutual information of contingency tables, normalised by class entropy.

    I(z; f) = sum p(z, f) ln [p(z, f) / (p(z) p(f))] in nats, for each class against the rest and
    for the whole label. Plug-in estimates are biased upwards by about (bins - 1) / 2N nats; the
    bias is not removed here but by subtracting the null (`sample_null`).

    Args:
        tables: int64 (..., bins, F), all with the same N and the same F class counts > 0.

    Returns:
        The shares; exactly 0 where the code is constant.

    Source: arXiv 2510.05696; which entropy normalises is not stated there.
    """
    per_code = tables.sum(axis=-1)
    per_class = tables[(0,) * (tables.ndim - 2)].sum(axis=0)
    rows = int(per_class.sum())
    n_log_n = np.arange(rows + 1, dtype=np.float64)
    n_log_n[1:] *= np.log(n_log_n[1:])

    of_class = n_log_n[tables].sum(axis=-2)
    of_rest = n_log_n[per_code[..., None] - tables].sum(axis=-2)
    of_code = n_log_n[per_code].sum(axis=-1)
    whole = n_log_n[rows]

    in_or_out = n_log_n[per_class] + n_log_n[rows - per_class]
    one_vs_rest = of_class + of_rest - of_code[..., None] - in_or_out + whole
    all_classes = of_class.sum(axis=-1) - of_code - n_log_n[per_class].sum() + whole
    return Information(
        nmi=_share(one_vs_rest / rows, (whole - in_or_out) / rows),
        total=_share(all_classes / rows, (whole - n_log_n[per_class].sum()) / rows),
    )


def exceedance(nmi: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Return the share of the entries of `nmi` above each threshold.

    Args:
        nmi: (D, F) information shares.
        thresholds: (T,) in the same unit.

    Returns:
        float64 (T,).

    Raises:
        SparseAasistError: nmi is empty.

    Source: arXiv 2510.05696, figure 1.
    """
    ordered = np.sort(np.asarray(nmi, dtype=np.float64), axis=None)
    if ordered.size == 0:
        raise SparseAasistError("nmi is empty; give the (dimensions, factors) matrix")
    limits = np.asarray(thresholds, dtype=np.float64)
    return 1.0 - np.searchsorted(ordered, limits, side="right") / ordered.size


def _share(nats: NDArray[np.float64], entropy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(nats > ROUNDING_NATS, np.minimum(nats / entropy, 1.0), 0.0)
