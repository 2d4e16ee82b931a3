"""Completeness, modularity and MIG of an information matrix M (dimension x factor).

All take (..., D, F), so that one call scores the observed matrix or every matrix of the null, and
return masked arrays: an entry is masked where the score is not defined.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Scores = np.ma.MaskedArray


def effective_dimensions(nmi: Matrix) -> Scores:
    """Return by how many dimensions each factor is carried: exp(H(p)), p = M[:, f] / sum M[:, f].

    1 when one dimension carries all of it, D when all carry the same. It does not depend on how
    many dimensions carry nothing, so embeddings of different width can be compared.

    Args:
        nmi: (..., D, F), >= 0.

    Returns:
        (..., F), masked for a factor on which no dimension has any information.
    """
    return np.ma.exp(_entropy_of_shares(nmi, axis=-2))


def completeness(nmi: Matrix, dims: int) -> Scores:
    """Return how far each factor is carried by one dimension: C_f = 1 - H(p) / ln(dims).

    Args:
        nmi: (..., D, F), >= 0.
        dims: what counts as the number of dimensions, D or those alive.

    Returns:
        (..., F), 1 = by one dimension, 0 = by all alike; masked as for `effective_dimensions`,
        and wholly where dims is 1.

    Source: Eastwood and Williams, DCI, ICLR 2018, with M as importance (MI-DCI).
    """
    entropy = _entropy_of_shares(nmi, axis=-2)
    if dims < 2:
        return np.ma.masked_all(entropy.shape)
    return 1.0 - entropy / math.log(dims)


def modularity_entropy(nmi: Matrix) -> Scores:
    """Return 1 - H(p) / ln F per dimension, with p = M[d, :] / sum M[d, :].

    Args:
        nmi: (..., D, F), >= 0.

    Returns:
        (..., D), masked for a dimension without any information, and wholly for two factors,
        which in a partition are one and the same.

    Source: Eastwood and Williams, DCI (there called disentanglement), with M as importance.
    """
    factors = nmi.shape[-1]
    if factors < 3:
        return np.ma.masked_all(nmi.shape[:-1])
    return 1.0 - _entropy_of_shares(nmi, axis=-1) / math.log(factors)


def modularity_rm(nmi: Matrix) -> Scores:
    """Return 1 - sum of M[d, f]^2 over all but the largest / (largest^2 (F - 1)) per dimension.

    Args, Returns: as for `modularity_entropy`.

    Source: Ridgeway and Mozer, NeurIPS 2018, equation of section 3.
    """
    factors = nmi.shape[-1]
    if factors < 3:
        return np.ma.masked_all(nmi.shape[:-1])
    largest = nmi.max(axis=-1)
    # Relative to the largest, because squares of tiny shares underflow.
    relative = np.ma.masked_equal(largest, 0.0)[..., None]
    squares = ((nmi / relative) ** 2).sum(axis=-1)
    return 1.0 - (squares - 1.0) / (factors - 1)


def mutual_information_gap(nmi: Matrix) -> Scores:
    """Return per factor the gap between its two largest shares (MIG).

    Args:
        nmi: (..., D, F), D at least 2.

    Returns:
        (..., F); nothing is masked.

    Source: Chen et al., Isolating sources of disentanglement in VAEs, NeurIPS 2018.
    """
    top = np.partition(nmi, nmi.shape[-2] - 2, axis=-2)
    return np.ma.asarray(top[..., -1, :] - top[..., -2, :])


def _entropy_of_shares(nmi: Matrix, axis: int) -> Scores:
    mass = np.ma.masked_equal(nmi.sum(axis=axis, keepdims=True), 0.0)
    shares = (nmi / mass).filled(0.0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = -(shares * logs).sum(axis=axis)
    return np.ma.masked_array(entropy, np.ma.getmaskarray(mass).squeeze(axis))
