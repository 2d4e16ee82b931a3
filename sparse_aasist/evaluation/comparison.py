"""Paired comparison of two systems scored on the same trials.

Both systems are resampled together, so that what is hard for both (a speaker, a codec) cancels
out of the difference (paired bootstrap; Efron and Tibshirani, 1993, chapter 16).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.bootstrap import (
    Interval,
    draw_runs,
    percentile_intervals,
    prepare_runs,
    run_generator,
    speaker_clusters,
)
from sparse_aasist.evaluation.resampling import METRIC_NAMES, resample_metrics
from sparse_aasist.evaluation.scores import match_scores, read_scores
from sparse_aasist.evaluation.trials import check_trials

ScorePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Difference:
    """One metric of two systems, in the units of `Metrics`; lower is better.

    a, b: means over the runs of each system.
    difference: a - b; negative when A is better.
    interval: 95 % interval of the difference.
    p_value: two-sided, of the hypothesis that there is no difference.
    """

    a: float
    b: float
    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Differences between system A and system B, and how their intervals were drawn."""

    eer: Difference
    min_dcf: Difference
    act_dcf: Difference
    cllr: Difference
    n_runs_a: int
    n_runs_b: int
    n_speakers: int
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON: rates as fractions, Cllr in bits."""
        return asdict(self)


def compare_scores(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 1234,
) -> Comparison:
    """Test whether two systems differ on the same trials, over speakers and training runs.

    Each resample draws speakers once, for all runs of both systems, and computes
    d = mean over runs of A - mean over runs of B;
    p = 2 min(1 + #(d <= 0), 1 + #(d >= 0)) / (1 + resamples), at most 1.

    With several runs each resample draws runs too, of A and of B independently: a seed number
    that two configurations share does not make their runs alike (another layer size takes other
    random numbers, and training amplifies any difference), so pairing by position would take
    chance for a common cause. With one run of a system nothing is said about its other runs.

    Args:
        scores_a: (N,), or (S, N) with one row per training run; higher = bona fide.
        scores_b: the same for the other system, in the same order of trials; its number of runs
            may differ.
        labels: (N,) 1 = bona fide, 0 = spoof.
        clusters: (N,) integers; trials of one speaker have the same.
        resamples: number of resamples, at least 1; no p-value is below 2 / (1 + resamples).
        seed: of the random draws.

    Raises:
        ScoreError: as for `compute_metrics`, naming the argument and the run; not one cluster per
            trial; fewer than two clusters, so that no interval can be drawn; no resamples.
    """
    a = prepare_runs("scores_a", scores_a, labels, clusters, resamples)
    b = prepare_runs("scores_b", scores_b, labels, clusters, resamples)
    draws = resample_metrics(a.sums + b.sums, resamples, seed)
    rng = run_generator(seed)
    n_runs_a = len(a.sums)
    differences = draw_runs(draws[:n_runs_a], rng) - draw_runs(draws[n_runs_a:], rng)
    intervals = percentile_intervals(differences)
    mean_a, mean_b = a.mean(), b.mean()
    found = {}
    for column, name in enumerate(METRIC_NAMES):
        value_a, value_b = getattr(mean_a, name), getattr(mean_b, name)
        found[name] = Difference(
            a=value_a,
            b=value_b,
            difference=value_a - value_b,
            interval=getattr(intervals, name),
            p_value=_p_value(differences[:, column]),
        )
    return Comparison(
        **found,
        n_runs_a=n_runs_a,
        n_runs_b=len(b.sums),
        n_speakers=a.n_clusters,
        resamples=resamples,
        seed=seed,
    )


def compare_files(
    trials: Sequence[Trial],
    paths_a: ScorePath | Sequence[ScorePath],
    paths_b: ScorePath | Sequence[ScorePath],
    *,
    resamples: int = 1000,
    seed: int = 1234,
) -> Comparison:
    """Compare two systems by their score files, as `compare_scores` does.

    Args:
        trials: the protocol, with labels.
        paths_a: the score file of system A, or one file per training run.
        paths_b: the same for system B.
        resamples: number of resamples, at least 1.
        seed: of the random draws.

    Raises:
        ScoreError: as for `read_scores`, `match_scores` and `compare_scores`, or labels are
            withheld; names the file.
    """
    scores_a = _read_runs(trials, paths_a, "paths_a")
    scores_b = _read_runs(trials, paths_b, "paths_b")
    _, labels = check_trials(trials, scores_a[0])
    clusters = speaker_clusters([trial.speaker for trial in trials])
    return compare_scores(scores_a, scores_b, labels, clusters, resamples=resamples, seed=seed)


def _read_runs(
    trials: Sequence[Trial], paths: ScorePath | Sequence[ScorePath], argument: str
) -> NDArray[np.float64]:
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise ScoreError(f"{argument} is empty; give at least one score file")
    runs = []
    for path in files:
        scores = read_scores(path)
        try:
            runs.append(match_scores(trials, scores))
        except ScoreError as error:
            raise ScoreError(f"{path}: {error}") from error
    return np.stack(runs)


def _p_value(differences: NDArray[np.float64]) -> float:
    # Means over runs that tie differ in their last bits.
    signs = np.sign(np.round(differences, 12))
    fewer = min(np.count_nonzero(signs <= 0), np.count_nonzero(signs >= 0))
    return min(2.0 * (1 + int(fewer)) / (1 + differences.size), 1.0)
