"""Attack by codec tables: which trials enter a cell, margins, empty cells, CSV and LaTeX."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.conditions import ConditionTable, condition_table
from sparse_aasist.evaluation.metrics import compute_metrics

ATTACKS = ["bonafide", "bonafide", "A17", "A18", "-"]
CODECS = ["C02", "-", "C01"]


def make_trial(index: int, attack: str, codec: str) -> Trial:
    return Trial("S", f"E_{index}", "F", codec, "1", "-", "-", attack, int(attack == "bonafide"))


def make_trials() -> tuple[list[Trial], np.ndarray]:
    rng = np.random.default_rng(0)
    trials = [
        make_trial(index, ATTACKS[rng.integers(5)], CODECS[rng.integers(3)]) for index in range(600)
    ]
    return trials, rng.normal(size=600) + np.array([1.5 * trial.label for trial in trials])


@pytest.mark.parametrize("metric", ["eer", "min_dcf", "act_dcf", "cllr"])
def test_cells_hold_their_codec_and_attack(metric: str) -> None:
    trials, scores = make_trials()
    table = condition_table(trials, scores, metric)
    assert table.rows == ("A17", "A18", "pooled")
    assert table.columns == ("uncoded", "C01", "C02", "pooled")
    for row, values in zip(table.rows, table.values, strict=True):
        for column, value in zip(table.columns, values, strict=True):
            chosen = [
                (index, trial.label)
                for index, trial in enumerate(trials)
                if column in ("pooled", trial.codec.replace("-", "uncoded"))
                and (trial.label == 1 or row in ("pooled", trial.attack))
            ]
            indices, labels = zip(*chosen, strict=True)
            expected = compute_metrics(scores[list(indices)], labels)
            assert value == getattr(expected, metric), (row, column)
            assert type(value) is float


def test_a_cell_without_both_classes_is_empty_not_nan() -> None:
    trials = [
        make_trial(0, "bonafide", "C01"),
        make_trial(1, "A17", "C01"),
        make_trial(2, "A18", "C02"),
        make_trial(3, "bonafide", "C03"),
    ]
    table = condition_table(trials, [1.0, 0.0, 2.0, 3.0])
    # A18 lies between the bona fide trials; the official EER stops at frr 1/2, far 1.
    assert table.values == (
        (0.0, None, None, 0.0),
        (None, None, None, 0.75),
        (0.0, None, None, 0.5),
    )
    assert table.to_csv() == (
        "attack,C01,C02,C03,pooled\nA17,0.0,-,-,0.0\nA18,-,-,-,0.75\npooled,0.0,-,-,0.5\n"
    )


def test_a_protocol_without_codecs_is_uncoded() -> None:
    trials = [make_trial(0, "bonafide", "-"), make_trial(1, "-", "-")]
    table = condition_table(trials, [1.0, 0.0], "act_dcf")
    assert table.rows == ("pooled",)
    assert table.columns == ("uncoded", "pooled")
    assert table.values == ((1.0, 1.0),)


def test_csv_reads_back_exactly() -> None:
    table = condition_table(*make_trials(), "cllr")
    lines = list(csv.reader(io.StringIO(table.to_csv())))
    assert lines[0] == ["attack", *table.columns]
    assert tuple(line[0] for line in lines[1:]) == table.rows
    assert tuple(tuple(map(float, line[1:])) for line in lines[1:]) == table.values


def test_latex_is_a_booktabs_tabular_in_percent() -> None:
    values = ((0.12345, None), (0.5, 1.0))
    table = ConditionTable("eer", ("A_17&x", "pooled"), ("uncoded", r"C%1\#{~^}$"), values)
    assert table.to_latex() == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "EER (\\%) & uncoded & C\\%1\\textbackslash{}\\#\\{\\textasciitilde{}"
        "\\textasciicircum{}\\}\\$ \\\\\n"
        "\\midrule\n"
        "A\\_17\\&x & 12.35 & - \\\\\n"
        "\\midrule\n"
        "pooled & 50.00 & 100.00 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )
    cost = ConditionTable("min_dcf", ("pooled",), ("pooled",), ((0.12345,),))
    assert "minDCF & pooled \\\\\n\\midrule\npooled & 0.123 \\\\" in cost.to_latex()


def test_bad_input_is_named() -> None:
    trials, scores = make_trials()
    with pytest.raises(ScoreError, match="metric is 'f1'; choose one of eer, min_dcf"):
        condition_table(trials, scores, "f1")
    with pytest.raises(ScoreError, match=r"shape \(599,\) for 600 trials"):
        condition_table(trials, scores[1:])
    with pytest.raises(ScoreError, match="no spoof"):
        condition_table([make_trial(0, "bonafide", "-")], [1.0])
    with pytest.raises(ScoreError, match="no bona fide"):
        condition_table([make_trial(0, "A17", "-")], [1.0])
    with pytest.raises(ScoreError, match="scores are empty"):
        condition_table([], [])
