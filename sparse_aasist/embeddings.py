"""Embeddings of the trials of a split with the linear head behind them, and their file; no torch.

With the head in the same file, scores can be taken apart or computed again with a dimension
changed, without the model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.errors import ScoreError
from sparse_aasist.files import atomic_path

_ARRAYS = ("names", "embeddings", "head_weight", "head_bias")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of N trials and the head that turns them into scores.

    names: trial names, in the order of the rows.
    embeddings: float32 (N, D), after TopK and before dropout: what the classifier reads.
    head_weight: float32 (2, D), rows spoof and bona fide.
    head_bias: float32 (2,).
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    head_weight: NDArray[np.float32]
    head_bias: NDArray[np.float32]

    @property
    def delta(self) -> NDArray[np.float64]:
        """What a unit of each dimension adds to the score: w_bonafide - w_spoof, float64 (D,)."""
        return self.head_weight[1].astype(np.float64) - self.head_weight[0]

    @property
    def bias(self) -> float:
        """The score of an embedding of zeros."""
        return float(self.head_bias[1]) - float(self.head_bias[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all arrays to a compressed .npz file, atomically.

        Raises:
            OSError: the file cannot be written; names it.
        """
        with atomic_path(path) as partial:
            np.savez_compressed(
                partial,
                names=np.array(self.names),
                embeddings=self.embeddings,
                head_weight=self.head_weight,
                head_bias=self.head_bias,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Read a file written by `save`.

        Raises:
            ScoreError: it is missing, truncated, of another kind, or holds a value that is not
                finite; names the file and the trial.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _ARRAYS}
        except Exception as error:  # damaged bytes make the unzipper raise almost anything
            raise ScoreError(
                f"{path}: not a readable file of embeddings ({error}); write it again with "
                "`sparse-aasist evaluate --embeddings`"
            ) from error
        names = tuple(arrays["names"].tolist())
        embeddings = arrays["embeddings"]
        if embeddings.ndim != 2 or len(embeddings) != len(names):
            raise ScoreError(
                f"{path}: embeddings have shape {embeddings.shape} for {len(names)} names; write "
                "the file again"
            )
        dims = embeddings.shape[1]
        shapes = arrays["head_weight"].shape, arrays["head_bias"].shape
        if shapes != ((2, dims), (2,)):
            raise ScoreError(
                f"{path}: the head has shapes {shapes} for embeddings of {dims} dimensions; write "
                "the file again"
            )
        check_finite(embeddings, names, os.fspath(path))
        return cls(names, embeddings, arrays["head_weight"], arrays["head_bias"])

    def of(self, names: Sequence[str], path: str | os.PathLike[str]) -> Embeddings:
        """Return the rows of the trials `names`, in that order.

        Args:
            names: all trials of a protocol.
            path: the file the embeddings came from, for messages.

        Raises:
            ScoreError: a trial has no row, or a row no trial; names the first.
        """
        rows = {name: row for row, name in enumerate(self.names)}
        missing = [name for name in names if name not in rows]
        extra = rows.keys() - set(names)
        if missing or extra:
            fault = (
                f"trial {missing[0]} has no embedding ({len(missing)} such)"
                if missing
                else f"{min(extra)} is no trial of the protocol ({len(extra)} such)"
            )
            raise ScoreError(f"{path}: {fault}; write the embeddings of this protocol again")
        order = [rows[name] for name in names]
        return Embeddings(tuple(names), self.embeddings[order], self.head_weight, self.head_bias)


def check_finite(embeddings: NDArray[np.float32], names: Sequence[str], where: str) -> None:
    """Make sure that all values are finite.

    Raises:
        ScoreError: names the first trial with another value.
    """
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if broken.size:
        raise ScoreError(
            f"{where}: the embedding of trial {names[broken[0]]} is not finite ({broken.size} "
            "such); the weights may have diverged"
        )


def embeddings_path(folder: str | os.PathLike[str], split: str) -> Path:
    """Return where the embeddings of `split` lie in a run folder."""
    return Path(folder) / f"{split}_embeddings.npz"
