"""The evaluation of one set of scores: pooled, seen and unseen attacks, each attack, each codec.

Per-attack figures set all bona fide trials against one attack, per-codec figures the bona fide
trials of one codec against the spoofed ones, as the ASVspoof5 evaluation package does
(asvspoof-challenge/asvspoof5: evaluation-package).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import ABSENT, BONAFIDE, Trial
from sparse_aasist.evaluation.bootstrap import (
    Intervals,
    bootstrap_intervals,
    speaker_clusters,
)
from sparse_aasist.evaluation.metrics import ErrorRates, Metrics, compute_metrics, error_rates
from sparse_aasist.evaluation.trials import check_trials, codec_name

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ReportRow:
    """Metrics of one group of trials.

    group: "pooled", "seen attacks", "unseen attacks", "attack" or "codec".
    name: the group, or the attack or codec.
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

    Spoofed trials whose attack is not named ("-") count in no row of an attack.

    Args:
        trials: the protocol, with labels.
        scores: (len(trials),) in the order of the trials, higher = bona fide.
        seen_attacks: attacks of the training split; with any given, the attacks of `trials` are
            summed up as seen and unseen besides.
        resamples: bootstrap resamples; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        The rows pooled, seen attacks, unseen attacks (where they exist), then each attack, then
        each codec that has trials of both classes when the protocol has more than one codec.

    Raises:
        ScoreError: labels are withheld, the lengths differ, a score is not finite (names the
            trial), or one class is absent.
    """
    values, labels = check_trials(trials, scores)
    clusters = speaker_clusters([trial.speaker for trial in trials])
    rows = []
    for group, name, chosen in _groups(trials, labels == BONAFIDE, seen_attacks):
        group_scores, group_labels = values[chosen], labels[chosen]
        summary = group not in ("attack", "codec")
        row = ReportRow(
            group=group,
            name=name,
            n_bonafide=int(np.count_nonzero(group_labels == BONAFIDE)),
            n_spoof=int(np.count_nonzero(group_labels != BONAFIDE)),
            n_speakers=np.unique(clusters[chosen]).size,
            metrics=compute_metrics(group_scores, group_labels),
            intervals=bootstrap_intervals(
                group_scores, group_labels, clusters[chosen], resamples=resamples, seed=seed
            ),
            seen=name in seen_attacks if group == "attack" and seen_attacks else None,
            rates=error_rates(group_scores, group_labels) if summary else None,
        )
        rows.append(row)
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
        if row.group in ("attack", "codec") and previous != row.group:
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


def _groups(
    trials: Sequence[Trial], bonafide: NDArray[np.bool_], seen_attacks: frozenset[str]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield group, name and trials of each row."""
    attacks = np.array([trial.attack for trial in trials])
    codecs = np.array([trial.codec for trial in trials])
    known = ~bonafide & (attacks != ABSENT)
    yield "pooled", "pooled", np.ones(len(trials), dtype=bool)
    if seen_attacks:
        in_training = np.isin(attacks, list(seen_attacks))
        for name, spoof in (
            ("seen attacks", known & in_training),
            ("unseen attacks", known & ~in_training),
        ):
            if spoof.any():
                yield name, name, bonafide | spoof
    for attack in np.unique(attacks[known]).tolist():
        yield "attack", attack, bonafide | (known & (attacks == attack))
    names = np.unique(codecs).tolist()
    for codec in names if len(names) > 1 else ():
        chosen = codecs == codec
        if bonafide[chosen].any() and not bonafide[chosen].all():
            yield "codec", codec_name(codec), chosen


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
