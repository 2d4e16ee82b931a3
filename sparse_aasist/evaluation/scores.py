"""Score files of the ASVspoof5 evaluation package: written, read, matched to trials.

Format: asvspoof-challenge/asvspoof5: evaluation-package; a header `filename<TAB>cm-score`, then
one line per trial, higher = bona fide.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.files import read_lines, write_text

HEADER = ("filename", "cm-score")


def write_scores(path: str | os.PathLike[str], names: Sequence[str], scores: ArrayLike) -> None:
    """Write an official score file; it appears complete or not at all.

    Scores are written so that reading them back gives the same float64 values.

    Args:
        path: the score file; an existing one is replaced.
        names: trial names, each once.
        scores: (len(names),) finite numbers, higher = bona fide.

    Raises:
        ScoreError: no trials, different lengths, a name twice or with white space, or a score
            that is not finite; names the trial.
        OSError: the file cannot be written.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(names),):
        raise ScoreError(
            f"{path}: scores have shape {values.shape} for {len(names)} names; give one score per "
            "trial"
        )
    lines = ["\t".join(HEADER)]
    seen: set[str] = set()
    for name, score in zip(names, values.tolist(), strict=True):
        _check_entry(f"{path}", name, score, seen)
        seen.add(name)
        lines.append(f"{name}\t{score!r}")
    if not seen:
        raise ScoreError(f"{path}: there are no scores to write; score at least one trial")
    write_text(path, "\n".join(lines) + "\n")


def read_scores(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read an official score file.

    Args:
        path: the file, with its header line.

    Returns:
        Score by trial name, in the order of the file.

    Raises:
        ScoreError: the file is missing, no text or empty, has no or another header, a line
            without exactly two columns, a score that is no finite number, or a trial twice; names
            the file, the line and the trial.
    """
    lines = read_lines(path, "score file", ScoreError)
    if tuple(lines[0].split("\t")) != HEADER:
        raise ScoreError(
            f"{path}, line 1: the header filename<TAB>cm-score is missing, found {lines[0]!r}; add "
            "it and separate the columns by a tab"
        )
    scores: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        fields = line.split("\t")
        if len(fields) != len(HEADER):
            raise ScoreError(
                f"{where}: {len(fields)} columns, 2 expected (filename<TAB>cm-score); repair or "
                "remove the line"
            )
        name, text = fields
        try:
            score = float(text)
        except ValueError as error:
            raise ScoreError(
                f"{where}: the score {text!r} of trial {name} is no number; score it again"
            ) from error
        _check_entry(where, name, score, scores)
        scores[name] = score
    if not scores:
        raise ScoreError(f"{path} holds a header and no scores; score at least one trial")
    return scores


def match_scores(trials: Sequence[Trial], scores: Mapping[str, float]) -> NDArray[np.float64]:
    """Put scores into the order of the trials.

    Args:
        trials: the protocol.
        scores: score by trial name, as `read_scores` returns it.

    Returns:
        float64 (len(trials),).

    Raises:
        ScoreError: a trial has no score, or a score has no trial; names the first few.
    """
    missing = [trial.name for trial in trials if trial.name not in scores]
    if missing:
        raise ScoreError(
            f"{len(missing)} of {len(trials)} trials have no score: {_few(missing)}; score the "
            "whole protocol"
        )
    if len(scores) > len(trials):
        extra = list(scores.keys() - {trial.name for trial in trials})
        raise ScoreError(
            f"{len(extra)} scores belong to no trial of the protocol: {_few(sorted(extra))}; is "
            "it the protocol of another split?"
        )
    return np.array([scores[trial.name] for trial in trials], dtype=np.float64)


def _check_entry(where: str, name: str, score: float, seen: Mapping[str, float] | set[str]) -> None:
    if name.split() != [name]:
        raise ScoreError(
            f"{where}: the trial name {name!r} is empty or holds white space; rename it"
        )
    if name in seen:
        raise ScoreError(f"{where}: trial {name} has a second score; keep one")
    if not math.isfinite(score):
        raise ScoreError(
            f"{where}: the score of trial {name} is {score}; find out why the model returned it "
            "and score again"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
