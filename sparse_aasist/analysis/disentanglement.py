"""How dimensions of an embedding and classes of utterances go together, always beside a null.

Definitions: docs/disentanglement.md. Method: arXiv 2510.05696; it does not print its null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.analysis.binning import bin_codes, check_embeddings
from sparse_aasist.analysis.classes import read_classes
from sparse_aasist.analysis.information import count_tables, information
from sparse_aasist.analysis.null import LEVEL, p_values, sample_null
from sparse_aasist.analysis.readings import Reading, plain, read_dimensions, read_factors
from sparse_aasist.analysis.scores import (
    completeness,
    effective_dimensions,
    modularity_entropy,
    modularity_rm,
    mutual_information_gap,
)
from sparse_aasist.errors import NothingToMeasureError, SparseAasistError


@dataclass(frozen=True)
class Disentanglement:
    """The information matrix of one embedding and one set of classes, and its scores.

    factors, factor_counts: names of the F classes, sorted, and their numbers of rows (F,).
    nmi: M (D, F), share of the entropy of "is of class f" that dimension d removes.
    null_mean, null_quantile, p_value: (D, F) of `nmi` with permuted labels.
    total, total_null_mean, total_p_value: (D,) the same for the whole class label.
    alive: (D,) whether the code varies; other dimensions have a row of zeros.
    informative: (D,) whether the largest share of an alive dimension is above the 95 % quantile
        of the largest share with permuted labels; only these have a modularity.
    completeness: per factor, D dimensions; _pruned: with the number of those alive;
        _corrected: of max(M - null_mean, 0).
    effective_dims, effective_dims_corrected: per factor, likewise.
    mig: per factor, gap between the two largest shares.
    modularity_rm, modularity_entropy: per informative dimension.
    """

    rule: str
    bins: int
    permutations: int
    seed: int
    rows: int
    factors: tuple[str, ...]
    factor_counts: NDArray[np.int64]
    nmi: NDArray[np.float64]
    null_mean: NDArray[np.float64]
    null_quantile: NDArray[np.float64]
    p_value: NDArray[np.float64]
    total: NDArray[np.float64]
    total_null_mean: NDArray[np.float64]
    total_p_value: NDArray[np.float64]
    alive: NDArray[np.bool_]
    informative: NDArray[np.bool_]
    completeness: Reading
    completeness_pruned: Reading
    completeness_corrected: Reading
    effective_dims: Reading
    effective_dims_corrected: Reading
    mig: Reading
    modularity_rm: Reading
    modularity_entropy: Reading

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON: lists, six significant digits, None where not defined."""
        entries: dict[str, Any] = {}
        for key, value in vars(self).items():
            if isinstance(value, Reading):
                entries[key] = value.to_dict()
            elif isinstance(value, np.ndarray):
                entries[key] = plain(value) if value.dtype == np.float64 else value.tolist()
            else:
                entries[key] = list(value) if isinstance(value, tuple) else value
        return entries


def disentangle(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    rule: str = "equal_width",
    bins: int = 20,
    permutations: int = 100,
    seed: int = 1234,
) -> Disentanglement:
    """Measure the information of every dimension on every class, and score the matrix.

    M[d, f] = I(z_d; f) / H(f), with z_d the binned dimension and f "is of this class". The bias of
    the estimate is judged and removed by the null (permuted labels), not by a formula.

    Args:
        embeddings: (N, D) real numbers, D at least 2, used as float32.
        labels: (N,) strings or integers, one class per row.
        rule: of binning, see `bin_codes`.
        bins: of binning, 2..256.
        permutations: of the null, at least 20.
        seed: of the null.

    Raises:
        NothingToMeasureError: all dimensions are dead, or there is one class only.
        SparseAasistError: embeddings, rule or bins as for `bin_codes`, labels as for
            `read_classes`, too few permutations, or one dimension only.

    Source: arXiv 2510.05696; scores as in `sparse_aasist.analysis.scores`.
    """
    values = check_embeddings(embeddings)
    rows, dims = values.shape
    if dims < 2:
        raise SparseAasistError("embeddings have one dimension; completeness compares at least two")
    classes = read_classes(labels, rows)
    codes = bin_codes(values, rule, bins)
    tables = count_tables(codes, classes)
    alive = (tables.sum(axis=2) > 0).sum(axis=1) > 1
    if not alive.any():
        raise NothingToMeasureError(
            f"all {dims} dimensions of the embeddings have one code only (rule {rule}); choose "
            "another rule or analyse a trained model"
        )
    observed = information(tables)
    null = sample_null(tables, permutations, seed)
    limit = np.quantile(null.nmi.max(axis=2), LEVEL, axis=0)
    informative = alive & (observed.nmi.max(axis=1) > limit)
    null_mean = null.nmi.mean(axis=0)
    return Disentanglement(
        rule=rule,
        bins=codes.bins,
        permutations=permutations,
        seed=seed,
        rows=rows,
        factors=classes.names,
        factor_counts=tables[0].sum(axis=0),
        nmi=observed.nmi,
        null_mean=null_mean,
        null_quantile=np.quantile(null.nmi, LEVEL, axis=0),
        p_value=p_values(observed.nmi, null.nmi),
        total=observed.total,
        total_null_mean=null.total.mean(axis=0),
        total_p_value=p_values(observed.total, null.total),
        alive=alive,
        informative=informative,
        **_factor_readings(observed.nmi, null.nmi, null_mean, int(alive.sum())),
        **_dimension_readings(observed.nmi, null.nmi, informative, limit),
    )


def _factor_readings(
    nmi: NDArray[np.float64],
    null: NDArray[np.float64],
    null_mean: NDArray[np.float64],
    n_alive: int,
) -> dict[str, Reading]:
    dims = len(nmi)
    # The null is corrected like the observation, because what noise leaves is not spread evenly.
    corrected = np.maximum(nmi - null_mean, 0.0)
    null_corrected = np.maximum(null - null_mean, 0.0)
    return {
        "completeness": read_factors(completeness(nmi, dims), completeness(null, dims)),
        "completeness_pruned": read_factors(
            completeness(nmi, n_alive), completeness(null, n_alive)
        ),
        "completeness_corrected": read_factors(
            completeness(corrected, dims), completeness(null_corrected, dims)
        ),
        "effective_dims": read_factors(effective_dimensions(nmi), effective_dimensions(null)),
        "effective_dims_corrected": read_factors(
            effective_dimensions(corrected), effective_dimensions(null_corrected)
        ),
        "mig": read_factors(mutual_information_gap(nmi), mutual_information_gap(null)),
    }


def _dimension_readings(
    nmi: NDArray[np.float64],
    null: NDArray[np.float64],
    informative: NDArray[np.bool_],
    limit: NDArray[np.float64],
) -> dict[str, Reading]:
    weights = np.ma.masked_array(nmi.sum(axis=1), ~informative)
    null_weights = np.ma.masked_array(null.sum(axis=2), null.max(axis=2) <= limit)
    return {
        score.__name__: read_dimensions(score(nmi), score(null), weights, null_weights)
        for score in (modularity_rm, modularity_entropy)
    }
