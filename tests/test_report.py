"""Reports: which trials enter which row, table, JSON and picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from rich.console import Console

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.figures import plot, probit
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.report import Evaluation, evaluate_trials, print_table


def make_trials(n_speakers: int = 8, per_speaker: int = 12) -> tuple[list[Trial], np.ndarray]:
    """Speakers with three bona fide trials and as many of each attack; A17 is the hardest."""
    rng = np.random.default_rng(7)
    shift = {"bonafide": 1.0, "A01": -3.0, "A17": 0.0, "A18": -1.0}
    trials, scores = [], []
    for speaker in range(n_speakers):
        for index in range(per_speaker):
            attack = list(shift)[index % 4]
            name = f"E_{speaker:04d}{index:06d}"
            label = int(attack == "bonafide")
            trials.append(Trial(f"E_{speaker:04d}", name, "F", "-", "0", "-", "-", attack, label))
            scores.append(shift[attack] + rng.normal())
    return trials, np.array(scores)


def print_to_text(evaluation: Evaluation, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(evaluation, console)
    return console.file.getvalue()


def test_rows_hold_all_bona_fide_against_their_attacks() -> None:
    trials, scores = make_trials()
    rows = evaluate_trials(trials, scores, frozenset({"A01", "A02"}), resamples=0).rows
    expected = {
        "pooled": {"A01", "A17", "A18"}, "seen attacks": {"A01"}, "unseen attacks": {"A17", "A18"},
        "A01": {"A01"}, "A17": {"A17"}, "A18": {"A18"},
    }  # fmt: skip
    assert [row.name for row in rows] == list(expected)
    assert [row.group for row in rows][3:] == ["attack"] * 3
    assert [row.seen for row in rows] == [None, None, None, True, False, False]
    for row in rows:
        chosen = [t.label == 1 or t.attack in expected[row.name] for t in trials]
        labels = np.array([trial.label for trial in trials])
        assert row.metrics == compute_metrics(scores[chosen], labels[chosen])
        assert (row.n_bonafide, row.n_spoof) == (24, 24 * len(expected[row.name]))
        assert (row.n_speakers, row.intervals) == (8, None)


def test_rows_without_known_seen_attacks() -> None:
    trials, scores = make_trials()
    evaluation = evaluate_trials(trials, scores, resamples=0)
    assert [row.name for row in evaluation.rows] == ["pooled", "A01", "A17", "A18"]
    assert {row.seen for row in evaluation.rows} == {None}
    assert evaluation.pooled is evaluation.rows[0]


def test_a_group_that_does_not_occur_has_no_row() -> None:
    trials, scores = make_trials()
    names = [row.name for row in evaluate_trials(trials, scores, frozenset({"A09"})).rows]
    assert names == ["pooled", "unseen attacks", "A01", "A17", "A18"]


def test_unnamed_attacks_count_in_the_pooled_row_only() -> None:
    trials, scores = make_trials()
    trials.append(Trial("E_0000", "E_9", "F", "-", "0", "-", "-", "-", 0))
    rows = evaluate_trials(trials, [*scores, 5.0], frozenset({"A01"}), resamples=0).rows
    assert [row.n_spoof for row in rows] == [73, 24, 48, 24, 24, 24]


def make_coded_trials() -> tuple[list[Trial], np.ndarray]:
    """Three codecs, of which C02 has no bona fide trial."""
    trials, scores = make_trials()
    codecs = ["-" if i % 8 < 4 else ("C01" if t.label or i % 16 < 8 else "C02")
              for i, t in enumerate(trials)]  # fmt: skip
    coded = [replace(trial, codec=codec) for trial, codec in zip(trials, codecs, strict=True)]
    return coded, scores


def test_codecs_set_their_own_bona_fide_against_their_own_spoof() -> None:
    trials, scores = make_coded_trials()
    rows = evaluate_trials(trials, scores, frozenset({"A01"}), resamples=20).rows
    coded = [row for row in rows if row.group == "codec"]
    assert rows[-2:] == tuple(coded)
    assert [row.name for row in coded] == ["uncoded", "C01"]
    for row, codec in zip(coded, ("-", "C01"), strict=True):
        chosen = [trial.codec == codec for trial in trials]
        labels = np.array([trial.label for trial in trials])[chosen]
        assert row.metrics == compute_metrics(scores[chosen], labels)
        assert (row.n_bonafide, row.n_spoof) == (labels.sum(), (1 - labels).sum())
        assert (row.seen, row.rates) == (None, None)
        assert row.intervals.eer[0] <= row.metrics.eer <= row.intervals.eer[1]


def test_one_codec_is_no_condition() -> None:
    trials, scores = make_trials()
    trials = [replace(trial, codec="C01") for trial in trials]
    assert {row.group for row in evaluate_trials(trials, scores).rows} == {"pooled", "attack"}


def test_table_prints_codecs_below_attacks() -> None:
    trials, scores = make_coded_trials()
    names = [line.split(" ")[0] for line in
             print_to_text(evaluate_trials(trials, scores, resamples=0)).splitlines()]  # fmt: skip
    assert names[-4:] == ["A18", "", "uncoded", "C01"]


def test_warning_above_50_percent_only() -> None:
    trials, scores = make_trials()
    assert evaluate_trials(trials, scores, resamples=0).warning is None
    flipped = evaluate_trials(trials, -scores, resamples=0)
    assert "score direction may be flipped" in flipped.warning
    assert f"{100 * flipped.pooled.metrics.eer:.2f} %" in flipped.warning


def test_withheld_labels_are_an_error_that_says_so() -> None:
    trials = [Trial("-", f"E_{i}", "-", "-", "-", "-", "-", "-", None) for i in range(3)]
    with pytest.raises(ScoreError, match=r"labels are missing for 3 of 3 trials \(E_0 is the"):
        evaluate_trials(trials, [1.0, 2.0, 3.0])


def test_bad_scores_are_named_by_trial() -> None:
    trials, scores = make_trials()
    with pytest.raises(ScoreError, match=r"shape \(95,\) for 96 trials"):
        evaluate_trials(trials, scores[:-1])
    scores[17] = np.nan
    with pytest.raises(ScoreError, match=f"score of trial {trials[17].name} is nan"):
        evaluate_trials(trials, scores)
    with pytest.raises(ScoreError, match="no bona fide"):
        evaluate_trials([t for t in trials if t.label == 0], np.zeros(72))
    with pytest.raises(ScoreError, match="scores are empty"):
        evaluate_trials([], [])


def test_json_holds_every_number() -> None:
    trials, scores = make_trials()
    evaluation = evaluate_trials(trials, scores, frozenset({"A01"}), resamples=50, seed=3)
    data = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert (data["resamples"], data["seed"], data["warning"]) == (50, 3, None)
    for entry, row in zip(data["rows"], evaluation.rows, strict=True):
        for name in ("eer", "eer_threshold", "min_dcf", "act_dcf", "cllr"):
            assert entry[name] == getattr(row.metrics, name)
        assert entry["intervals"]["eer"] == list(row.intervals.eer)
        assert (entry["name"], entry["n_spoof"], entry["seen"]) == (row.name, row.n_spoof, row.seen)


def test_table_prints_percent_intervals_and_warning() -> None:
    trials, scores = make_trials()
    evaluation = evaluate_trials(trials, scores, frozenset({"A01"}))
    text = print_to_text(evaluation)
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    for row in evaluation.rows:
        line = lines[f"{row.name} (seen)" if row.seen else row.name]
        low, high = row.intervals.eer
        assert f"{100 * row.metrics.eer:.2f} [{100 * low:.1f}, {100 * high:.1f}]" in line
        low, high = row.intervals.min_dcf
        assert f"{row.metrics.min_dcf:.3f} [{low:.2f}, {high:.2f}]" in line
        assert f"{row.metrics.act_dcf:.3f}" in line
    assert "bootstrap over 8 speakers, 1000 resamples" in text
    assert "flipped" not in text
    flipped = print_to_text(evaluate_trials(trials, -scores, resamples=0))
    assert "Warning: the pooled EER" in flipped
    assert "bootstrap" not in flipped


def test_table_prints_attack_names_with_brackets() -> None:
    trials, scores = make_trials()
    odd = [Trial("S", t.name, "-", "-", "-", "-", "-", "[red]x", 0) for t in trials if not t.label]
    trials = [t for t in trials if t.label] + odd
    assert "[red]x" in print_to_text(evaluate_trials(trials, scores, resamples=0))


@pytest.mark.parametrize("scale", [1.0, -1.0, 50.0])
def test_picture_is_drawn_for_good_bad_and_perfect_scores(tmp_path: Path, scale: float) -> None:
    from matplotlib.image import imread

    trials, scores = make_trials()
    labels = np.array([trial.label for trial in trials])
    scores = scale * scores + (1e3 * labels if scale > 1 else 0)
    path = tmp_path / "new" / "picture.png"
    plot(evaluate_trials(trials, scores, frozenset({"A01"}), resamples=20), path)
    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    # Something is drawn in both halves.
    for half in np.array_split(pixels, 2, axis=1):
        assert 0.005 < np.mean(half.min(axis=2) < 0.9) < 0.5
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_picture_without_named_attacks(tmp_path: Path) -> None:
    trials = [Trial("S", f"E_{i}", "-", "-", "-", "-", "-", a, int(a != "-"))
              for i, a in enumerate(["bonafide", "-"] * 5)]  # fmt: skip
    plot(evaluate_trials(trials, np.arange(10.0)), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_probit_is_the_normal_quantile() -> None:
    rates = np.array([0.001, 0.02, 0.3, 0.5, 0.77, 0.999])
    expected = [NormalDist().inv_cdf(rate) for rate in rates]
    assert np.abs(probit(rates) - expected).max() < 1e-5
    assert np.all(np.isfinite(probit(np.array([0.0, 1.0]))))


def test_intervals_depend_on_the_seed_alone() -> None:
    trials, scores = make_trials()
    first, again, other = (
        evaluate_trials(trials, scores, resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.pooled.intervals != other.pooled.intervals
    low, high = first.pooled.intervals.eer
    assert low < first.pooled.metrics.eer < high
