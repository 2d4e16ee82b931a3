"""One metric by attack and codec, the conditions of ASVspoof5's evaluation.

Source: asvspoof-challenge/asvspoof5: evaluation-package.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.data.protocol import ABSENT, BONAFIDE, Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.trials import check_trials, codec_name

MetricName = Literal["eer", "min_dcf", "act_dcf", "cllr"]

POOLED = "pooled"
EMPTY = "-"
# Heading in LaTeX, factor and digits of the printed figure.
_STYLES = {
    "eer": (r"EER (\%)", 100.0, 2),
    "min_dcf": ("minDCF", 1.0, 3),
    "act_dcf": ("actDCF", 1.0, 3),
    "cllr": ("Cllr (bits)", 1.0, 3),
}
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class ConditionTable:
    """One metric by attack (rows) and codec (columns); the last of both is "pooled".

    values: by row and column, in the units of `Metrics`; None where a class has no trial.
    """

    metric: MetricName
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def to_csv(self) -> str:
        """Return comma-separated text, full precision, rates as fractions, "-" for no value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("attack", *self.columns))
        for name, values in zip(self.rows, self.values, strict=True):
            writer.writerow((name, *(EMPTY if value is None else repr(value) for value in values)))
        return text.getvalue()

    def to_latex(self) -> str:
        """Return a LaTeX tabular (package booktabs), rates in percent, "-" for no value."""
        heading, factor, digits = _STYLES[self.metric]
        lines = [
            rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}",
            r"\toprule",
            _latex_line([heading, *map(_escape, self.columns)]),
            r"\midrule",
        ]
        for name, values in zip(self.rows, self.values, strict=True):
            if name == self.rows[-1] and len(self.rows) > 1:
                lines.append(r"\midrule")
            printed = [
                EMPTY if value is None else f"{factor * value:.{digits}f}" for value in values
            ]
            lines.append(_latex_line([_escape(name), *printed]))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def condition_table(
    trials: Sequence[Trial], scores: ArrayLike, metric: MetricName = "eer"
) -> ConditionTable:
    """Compute one metric for each attack in each codec.

    A cell sets the bona fide trials of its codec against the trials of its attack in that codec.
    The pooled column takes all codecs, the pooled row all spoofed trials, those whose attack is
    not named ("-") included.

    Args:
        trials: the protocol, with labels; trials of codec "-" are the condition "uncoded".
        scores: (len(trials),) in the order of the trials, higher = bona fide.
        metric: "eer", "min_dcf", "act_dcf" or "cllr".

    Returns:
        Attacks by name and pooled, against uncoded, codecs by name and pooled.

    Raises:
        ScoreError: labels are withheld, the lengths differ, a score is not finite (names the
            trial), one class is absent altogether, or the metric is unknown.

    Source: asvspoof-challenge/asvspoof5: evaluation-package.
    """
    if metric not in _STYLES:
        raise ScoreError(f"metric is {metric!r}; choose one of {', '.join(_STYLES)}")
    values, labels = check_trials(trials, scores)
    bonafide = labels == BONAFIDE
    codecs, codec = np.unique([trial.codec for trial in trials], return_inverse=True)
    attacks, attack = np.unique([trial.attack for trial in trials], return_inverse=True)
    in_row = [
        (name, ~bonafide & (attack == index))
        for index, name in enumerate(attacks.tolist())
        if name != ABSENT and np.any(~bonafide & (attack == index))
    ]
    in_row.append((POOLED, ~bonafide))
    # "-" sorts before letters and digits, so uncoded comes first.
    in_column = [(codec_name(name), codec == i) for i, name in enumerate(codecs.tolist())]
    in_column.append((POOLED, np.ones(len(trials), dtype=bool)))

    cells = [
        [_cell(values, bonafide & column, spoof & column, metric) for _, column in in_column]
        for _, spoof in in_row
    ]
    if cells[-1][-1] is None:
        # Says which class is absent.
        compute_metrics(values, labels)
    return ConditionTable(
        metric=metric,
        rows=tuple(name for name, _ in in_row),
        columns=tuple(name for name, _ in in_column),
        values=tuple(map(tuple, cells)),
    )


def _cell(
    values: NDArray[np.float64],
    bonafide: NDArray[np.bool_],
    spoof: NDArray[np.bool_],
    metric: MetricName,
) -> float | None:
    if not bonafide.any() or not spoof.any():
        return None
    chosen = bonafide | spoof
    return getattr(compute_metrics(values[chosen], bonafide[chosen]), metric)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
