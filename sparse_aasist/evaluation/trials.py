"""Scores beside the protocol they belong to, checked; names of conditions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import ABSENT, Trial
from sparse_aasist.errors import ScoreError

UNCODED = "uncoded"


def check_trials(
    trials: Sequence[Trial], scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check the scores of a protocol and return them as float64 (N,), and the labels (N,).

    Raises:
        ScoreError: labels are withheld, the lengths differ, or a score is not finite (names the
            trial).
    """
    withheld = [trial.name for trial in trials if trial.label is None]
    if withheld:
        raise ScoreError(
            f"labels are missing for {len(withheld)} of {len(trials)} trials ({withheld[0]} is "
            "the first), so metrics cannot be computed; write the scores and evaluate them with "
            "a protocol that has labels"
        )
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(trials),):
        raise ScoreError(
            f"scores have shape {values.shape} for {len(trials)} trials; give one score per trial, "
            "in the order of the protocol"
        )
    faulty = np.flatnonzero(~np.isfinite(values))
    if faulty.size:
        raise ScoreError(
            f"the score of trial {trials[faulty[0]].name} is {values[faulty[0]]} ({faulty.size} of "
            f"{values.size} scores are not finite); find out why the model returned it"
        )
    return values, np.array([trial.label for trial in trials], dtype=np.int64)


def codec_name(codec: str) -> str:
    """Return what a codec is called in tables: its name, or "uncoded" for "-"."""
    return UNCODED if codec == ABSENT else codec
