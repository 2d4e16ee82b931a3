"""Score files: exact round trip, official form, and every fault by file, line and trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparse_aasist.data.protocol import Trial
from sparse_aasist.errors import ScoreError
from sparse_aasist.evaluation.scores import match_scores, read_scores, write_scores

HEADER = "filename\tcm-score\n"


def trial(name: str) -> Trial:
    return Trial("S", name, "-", "-", "-", "-", "-", "A01", 0)


def test_official_form(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.tsv"
    write_scores(path, ["E_1", "E_2"], np.array([0.1, -2.0]))
    assert path.read_text() == "filename\tcm-score\nE_1\t0.1\nE_2\t-2.0\n"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(tmp_path: Path, dtype: type) -> None:
    scores = (np.random.default_rng(0).standard_normal(500) * 10.0**30).astype(dtype)
    scores[:3] = (0.1, -0.0, np.finfo(dtype).tiny)
    names = [f"E_{index:010d}" for index in range(500)]
    write_scores(tmp_path / "s.tsv", names, scores)
    again = read_scores(tmp_path / "s.tsv")
    assert list(again) == names
    assert np.array_equal(np.array(list(again.values())), scores.astype(np.float64))


def test_writing_replaces_and_never_appends(tmp_path: Path) -> None:
    path = tmp_path / "s.tsv"
    write_scores(path, ["a", "b"], [1.0, 2.0])
    write_scores(path, ["c"], [3.0])
    assert read_scores(path) == {"c": 3.0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "scores", "fault"),
    [
        (["a", "b"], [1.0, np.nan], "trial b is nan"),
        (["a", "b"], [np.inf, 1.0], "trial a is inf"),
        (["a", "a"], [1.0, 2.0], "trial a has a second score"),
        (["a", "b"], [1.0], r"shape \(1,\) for 2 names"),
        (["a b"], [1.0], "'a b' is empty or holds white space"),
        ([""], [1.0], "'' is empty"),
        ([], [], "no scores to write"),
    ],
)
def test_bad_scores_are_not_written(
    tmp_path: Path, names: list[str], scores: list[float], fault: str
) -> None:
    path = tmp_path / "s.tsv"
    path.write_text("as before")
    with pytest.raises(ScoreError, match=fault) as caught:
        write_scores(path, names, scores)
    assert str(path) in str(caught.value)
    assert path.read_text() == "as before"


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("E_1\t0.5\n", 1, "header filename<TAB>cm-score is missing"),
        ("filename cm-score\nE_1 0.5\n", 1, "header filename<TAB>cm-score is missing"),
        ("filename\tcm-score\tasv-score\nE_1\t0.5\t1\n", 1, "header"),
        (HEADER + "E_1\t0.5\nE_2 0.5\n", 3, "1 columns, 2 expected"),
        (HEADER + "E_1\t0.5\tspoof\n", 2, "3 columns, 2 expected"),
        (HEADER + "E_1\t0.5\n\nE_2\t1\n", 3, "1 columns"),
        (HEADER + "E_1\tspoof\n", 2, "'spoof' of trial E_1 is no number"),
        (HEADER + "E_1\t0.5\nE_2\tnan\n", 3, "score of trial E_2 is nan"),
        (HEADER + "E_1\t-inf\n", 2, "score of trial E_1 is -inf"),
        (HEADER + "E_1\t0.5\nE_2\t1\nE_1\t0.5\n", 4, "trial E_1 has a second score"),
        (HEADER + "\t0.5\n", 2, "'' is empty"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, text: str, line: int, fault: str) -> None:
    path = tmp_path / "s.tsv"
    path.write_text(text)
    with pytest.raises(ScoreError) as caught:
        read_scores(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}:")
    assert fault in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "a header and no scores"),
        (b"\xff\xfe\x00", "not a text file"),
        (None, "cannot read score file"),
    ],
)
def test_a_useless_file_is_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "s.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScoreError, match=fault) as caught:
        read_scores(path)
    assert str(path) in str(caught.value)


def test_match_puts_scores_into_protocol_order() -> None:
    matched = match_scores([trial("b"), trial("a")], {"a": 1.0, "b": 2.0})
    assert matched.tolist() == [2.0, 1.0]


def test_match_names_the_first_missing_trials() -> None:
    trials = [trial(name) for name in "abcdef"]
    with pytest.raises(ScoreError, match=r"5 of 6 trials have no score: a, c, d, \.\.\.;"):
        match_scores(trials, {"b": 1.0})
    with pytest.raises(ScoreError, match=r"1 of 6 trials have no score: f;"):
        match_scores(trials, dict.fromkeys("abcde", 1.0))


def test_match_names_the_first_extra_scores() -> None:
    with pytest.raises(ScoreError, match=r"4 scores belong to no trial of the protocol: b, c, d, "):
        match_scores([trial("a")], dict.fromkeys("edcba", 1.0))
