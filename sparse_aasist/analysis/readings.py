"""A score beside its null: the same score of the same codes with permuted labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_aasist.analysis.null import LEVEL
from sparse_aasist.analysis.scores import Scores


@dataclass(frozen=True)
class Level:
    """One number and the mean and 95 % quantile of its null; None where not defined."""

    value: float | None
    null_mean: float | None
    null_quantile: float | None

    def to_dict(self) -> dict[str, Any]:
        return {key: plain(item) for key, item in vars(self).items()}


@dataclass(frozen=True)
class Reading:
    """A score of each factor or each dimension; masked where not defined.

    values: (K,) observed.
    null_mean, null_quantile: (K,) mean and 95 % quantile with permuted labels.
    mean: the plain mean of the values that are defined.
    weighted_mean: their mean weighted by row mass of M; for scores of dimensions only.
    """

    values: Scores
    null_mean: Scores
    null_quantile: Scores
    mean: Level
    weighted_mean: Level | None = None

    def to_dict(self) -> dict[str, Any]:
        entries = {
            "values": plain(self.values),
            "null_mean": plain(self.null_mean),
            "null_quantile": plain(self.null_quantile),
            "mean": self.mean.to_dict(),
        }
        if self.weighted_mean is not None:
            entries["weighted_mean"] = self.weighted_mean.to_dict()
        return entries


def read_factors(values: Scores, null: Scores) -> Reading:
    """Set a score of factors (F,) beside its null (P, F)."""
    return Reading(
        values=values,
        null_mean=null.mean(axis=0),
        null_quantile=_quantile(null),
        mean=_level(values.mean(), null.mean(axis=1)),
    )


def read_dimensions(values: Scores, null: Scores, weights: Scores, null_weights: Scores) -> Reading:
    """Set a score of dimensions beside its null; the means take the selected dimensions only.

    The null of a mean is over the dimensions that a permutation lifts above the same limit:
    passing it is a selection that raises modularity by itself.

    Args:
        values: (D,) observed.
        null: (P, D).
        weights: (D,) information of the observed dimensions, masked where not selected.
        null_weights: (P, D) the same of the null.
    """
    values = np.ma.masked_where(np.ma.getmaskarray(weights), values)
    selected = np.ma.masked_where(np.ma.getmaskarray(null_weights), null)
    return Reading(
        values=values,
        null_mean=null.mean(axis=0),
        null_quantile=_quantile(null),
        mean=_level(values.mean(), selected.mean(axis=1)),
        weighted_mean=_level(_weighted(values, weights), _weighted(selected, null_weights)),
    )


def plain(values: Any) -> Any:
    """Turn an array or a number into floats of six significant digits, None where masked."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [plain(entry) for entry in values]
    return None if values is None else float(f"{values:.6g}")


def _weighted(values: Scores, weights: Scores) -> Any:
    return (values * weights).sum(axis=-1) / weights.sum(axis=-1)


def _level(value: Any, null: Scores) -> Level:
    return Level(*(_number(entry) for entry in (value, null.mean(), _quantile(null))))


def _number(value: Any) -> float | None:
    return None if np.ma.is_masked(value) else float(value)


def _quantile(null: Scores) -> Any:
    """Return the 95 % quantile over the first axis of what is not masked."""
    hidden = np.ma.getmaskarray(null)
    wholly = hidden.all(axis=0)
    # Masked columns are filled to spare numpy a warning about slices without any number.
    filled = np.where(wholly, 0.0, np.where(hidden, np.nan, np.ma.getdata(null)))
    return np.ma.masked_array(np.nanquantile(filled, LEVEL, axis=0), wholly)
