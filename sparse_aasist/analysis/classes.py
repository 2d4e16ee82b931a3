"""Class labels: one class per utterance, each read as the binary factor "is of this class"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.errors import NothingToMeasureError, SparseAasistError

# More classes than this, or than half the rows, are no classes but measurements or names.
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Classes:
    """The classes of a sample.

    names: (F,) sorted.
    index: int64 (N,), the class of each row in 0..F-1.
    """

    names: tuple[str, ...]
    index: NDArray[np.int64]


def read_classes(labels: ArrayLike, rows: int) -> Classes:
    """Number the classes of `labels`.

    Args:
        labels: (rows,) strings or integers, for instance attack names with "bonafide".
        rows: number of rows of the embeddings the labels belong to.

    Raises:
        NothingToMeasureError: there is one class only.
        SparseAasistError: fewer than two rows, another number of labels, labels that are neither
            strings nor integers, or more than 1,000 or rows / 2 classes.
    """
    values = np.asarray(labels)
    if values.shape != (rows,):
        raise SparseAasistError(
            f"labels have shape {values.shape} for {rows} rows of embeddings; give one label per "
            "row"
        )
    if rows < 2:
        raise SparseAasistError(f"there are {rows} rows; information needs at least two")
    if values.dtype.kind not in "Uiub":
        raise SparseAasistError(
            f"labels are of type {values.dtype}; give class names as strings or integers (cut a "
            "measurement into classes, tertiles for instance)"
        )
    names, index = np.unique(values, return_inverse=True)
    if names.size < 2:
        raise NothingToMeasureError(
            f"all labels are {names[0]!s}; a factor needs at least two classes in the sample"
        )
    limit = min(MAX_CLASSES, max(2, rows // 2))
    if names.size > limit:
        raise SparseAasistError(
            f"labels hold {names.size} classes in {rows} rows, at most {limit} are sensible; merge "
            "them into fewer classes"
        )
    return Classes(tuple(str(name) for name in names.tolist()), index.astype(np.int64))
