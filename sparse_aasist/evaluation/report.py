"""The evaluation of one set of scores: pooled, seen and unseen attacks, each attack.

Per-attack figures set all bona fide trials against one attack, as the ASVspoof5 evaluation
package does (asvspoof-challenge/asvspoof5: evaluation-package).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import ABSENT, BONAFIDE, Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.bootstrap import (
    Intervals,
    bootstrap_intervals,
    speaker_clusters,
)
from sparse_aasist.evaluation.metrics import ErrorRates, Metrics, compute_metrics, error_rates

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ReportRow:
    """Metrics of one group of trials: all bona fide trials against some of the spoofed ones.

    group: "pooled", "seen attacks", "unseen attacks" or "attack".
    name: the group, or the attack.
    n_speakers: clusters of the bootstrap; trials without a speaker count one each, up to 1,000.
    seen: whether an attack was in training; None for other groups or where nobody said.
    intervals: 95 % intervals over speakers; None with fewer than two speakers.
    rates: the DET curve, for the groups of several attacks only.
    """

    group: str
    name: str
    n_bonafide: int
    n_spoof: int
    n_speakers: int
    metrics: Metrics
    intervals: Intervals | None
    seen: bool | None = None
    rates: ErrorRates | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """All rows of one evaluation, the pooled row first, and how the intervals were drawn.

    warning: a sentence when the pooled EER is above 50 %, otherwise None.
    """

    rows: tuple[ReportRow, ...]
    warning: str | None
    resamples: int
    seed: int

    @property
    def pooled(self) -> ReportRow:
        return self.rows[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for JSON: rates as fractions, Cllr in bits, without curves."""
        rows = []
        for row in self.rows:
            entry = {
                key: value for key, value in vars(row).items() if key not in ("rates", "metrics")
            }
            entry["intervals"] = None if row.intervals is None else asdict(row.intervals)
            rows.append(entry | asdict(row.metrics))
        return {
            "rows": rows,
            "warning": self.warning,
            "resamples": self.resamples,
            "seed": self.seed,
        }


def evaluate_trials(
    trials: Sequence[Trial],
    scores: ArrayLike,
    seen_attacks: frozenset[str] = frozenset(),
    *,
    resamples: int = 1000,
    seed: int = 1234,
) -> Evaluation:
    """Compute all metrics of a scored protocol, with intervals over speakers.

    Spoofed trials whose attack is not named ("-") count in the pooled row only.

    Args:
        trials: the protocol, with labels.
        scores: (len(trials),) in the order of the trials, higher = bona fide.
        seen_attacks: attacks of the training split; with any given, the attacks of `trials` are
            summed up as seen and unseen besides.
        resamples: bootstrap resamples; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        The rows pooled, seen attacks, unseen attacks (where they exist), then each attack.

    Raises:
        ScoreError: labels are withheld, the lengths differ, a score is not finite (names the
            trial), or one class is absent.
    """
    values, labels = _check(trials, scores)
    clusters = speaker_clusters([trial.speaker for trial in trials])
    attacks = np.array([trial.attack for trial in trials])
    bonafide = labels == BONAFIDE
    known = ~bonafide & (attacks != ABSENT)

    def row(group: str, name: str, spoof: NDArray[np.bool_], seen: bool | None) -> ReportRow:
        chosen = bonafide | spoof
        group_scores, group_labels = values[chosen], labels[chosen]
        return ReportRow(
            group=group,
            name=name,
            n_bonafide=int(bonafide.sum()),
            n_spoof=int(spoof.sum()),
            n_speakers=np.unique(clusters[chosen]).size,
            metrics=compute_metrics(group_scores, group_labels),
            intervals=bootstrap_intervals(
                group_scores, group_labels, clusters[chosen], resamples=resamples, seed=seed
            ),
            seen=seen,
            rates=None if group == "attack" else error_rates(group_scores, group_labels),
        )

    rows = [row("pooled", "pooled", ~bonafide, None)]
    if seen_attacks:
        in_training = np.isin(attacks, list(seen_attacks))
        for name, spoof in (
            ("seen attacks", known & in_training),
            ("unseen attacks", known & ~in_training),
        ):
            if spoof.any():
                rows.append(row(name, name, spoof, None))
    for attack in np.unique(attacks[known]).tolist():
        seen = attack in seen_attacks if seen_attacks else None
        rows.append(row("attack", attack, known & (attacks == attack), seen))
    return Evaluation(tuple(rows), _direction_warning(rows[0].metrics.eer), resamples, seed)


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print the evaluation as a table of up to 80 columns; rates in percent, Cllr in bits.

    Args:
        evaluation: what to print.
        console: a rich console.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    # Without padding the widest table, six-digit counts included, fits 80 columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("trials", no_wrap=True)
    headers = ("bona\nfide", "spoof", "EER %\n[95 %]", "minDCF\n[95 %]", "actDCF", "Cllr\nbits")
    for header in headers:
        table.add_column(header, justify="right")
    previous = "pooled"
    for row in evaluation.rows:
        if row.group == "attack" and previous != "attack":
            table.add_section()
        previous = row.group
        intervals, metrics = row.intervals, row.metrics
        table.add_row(
            escape(row.name) if row.seen is not True else f"{escape(row.name)} (seen)",
            str(row.n_bonafide),
            str(row.n_spoof),
            f"{100 * metrics.eer:.2f}" + (_range(intervals.eer, 100, 1) if intervals else ""),
            f"{metrics.min_dcf:.3f}" + (_range(intervals.min_dcf, 1, 2) if intervals else ""),
            f"{metrics.act_dcf:.3f}",
            f"{metrics.cllr:.2f}",
        )
    console.print(table)
    if evaluation.pooled.intervals:
        console.print(
            f"Intervals: bootstrap over {evaluation.pooled.n_speakers} speakers, "
            f"{evaluation.resamples} resamples.",
            style="dim",
            highlight=False,
        )
    if evaluation.warning:
        console.print(f"Warning: {evaluation.warning}", style="bold yellow", highlight=False)


def _check(
    trials: Sequence[Trial], scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
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


def _direction_warning(eer: float) -> str | None:
    if eer <= 0.5:
        return None
    return (
        f"the pooled EER of {100 * eer:.2f} % is above 50 %: the score direction may be flipped "
        "(a higher score must mean bona fide)"
    )


def _range(interval: tuple[float, float], factor: int, digits: int) -> str:
    low, high = (f"{factor * bound:.{digits}f}" for bound in interval)
    return f" [{low}, {high}]"
