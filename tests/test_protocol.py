"""Protocols: both forms, the layout of a data directory, and every fault by file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SHARED_DATA
from synthetic import make_corpus

from sparse_aasist.data.protocol import (
    BONAFIDE,
    SPLITS,
    SPOOF,
    Trial,
    open_split,
    read_protocol,
    write_protocol,
)
from sparse_aasist.errors import ProtocolError

RELEASED = """\
D_0062 D_0000000001 F - - - AC1 A11 spoof -
D_0461 D_0000000190 M - - - - bonafide bonafide -
E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -
- E_9000000001 - - - - - - - -
"""
LEGACY = """\
T_4850 T_0000000000 F - A05 spoof
T_4851 T_0000000001 M - - bonafide
T_4852 T_0000000002 M - bonafide bonafide
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "ASVspoof5.train.tsv"
    path.write_text(text)
    return path


def test_released_form_fills_every_field(tmp_path: Path) -> None:
    trials = read_protocol(write(tmp_path, RELEASED))
    assert trials == [
        Trial("D_0062", "D_0000000001", "F", "-", "-", "-", "AC1", "A11", SPOOF),
        Trial("D_0461", "D_0000000190", "M", "-", "-", "-", "-", "bonafide", BONAFIDE),
        Trial("E_1607", "E_0009538969", "M", "C05", "2", "E_0009486171", "AC1", "A26", SPOOF),
        Trial("-", "E_9000000001", "-", "-", "-", "-", "-", "-", None),
    ]


def test_legacy_form_is_told_by_its_six_columns(tmp_path: Path) -> None:
    trials = read_protocol(write(tmp_path, LEGACY))
    assert trials[0] == Trial("T_4850", "T_0000000000", "F", "-", "-", "-", "-", "A05", SPOOF)
    assert [trial.label for trial in trials] == [SPOOF, BONAFIDE, BONAFIDE]
    assert [trial.attack for trial in trials] == ["A05", "bonafide", "bonafide"]


@pytest.mark.parametrize(
    "text", [RELEASED.replace("\n", "\r\n"), RELEASED.rstrip(), RELEASED + "\n"]
)
def test_line_ends_do_not_matter(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes(text.encode())
    assert read_protocol(path) == read_protocol(write(tmp_path, RELEASED))


def test_written_protocol_is_the_released_text(tmp_path: Path) -> None:
    path = tmp_path / "copy" / "p.tsv"
    write_protocol(path, read_protocol(write(tmp_path, RELEASED)))
    assert path.read_text() == RELEASED


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (RELEASED.replace("AC1 A11 spoof -", "AC1 A11 spoof"), 1, "9 columns"),
        (RELEASED.replace("2 E_0009486171", "2"), 3, "9 columns, 10 expected"),
        (RELEASED + LEGACY, 5, "6 columns, 10 expected"),
        (RELEASED.replace("\nE_1607", "\n\nE_1607"), 3, "0 columns"),
        (RELEASED.replace("A26 spoof", "A26 fake"), 3, "unknown label 'fake'"),
        (LEGACY.replace("bonafide bonafide", "bonafide bona-fide"), 3, "unknown label 'bona-fide'"),
        (RELEASED.replace("E_9000000001", "D_0000000001"), 4, "D_0000000001 is listed a second"),
        (RELEASED.replace("bonafide bonafide", "bonafide spoof"), 2, "contradict"),
        (RELEASED.replace("A11 spoof", "A11 bonafide"), 1, "contradict"),
        ("SPEAKER FILE GENDER CODEC CODEC_Q SEED TAG ATTACK KEY TMP\n" + RELEASED, 1, "header"),
        ("speaker_id flac_file_name gender codec attack key\n" + LEGACY, 1, "header"),
        ("filename\tcm-label\nE_1\tspoof\n", 1, "header"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, text: str, line: int, fault: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ProtocolError) as caught:
        read_protocol(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}:")
    assert fault in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"fLaC\x00\xff\xfe", "is not a text file")],
)
def test_a_file_without_trials_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match=fault) as caught:
        read_protocol(path)
    assert str(path) in str(caught.value)


def test_missing_protocol_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(ProtocolError, match="cannot read protocol") as caught:
            read_protocol(path)
        assert str(path) in str(caught.value)


GOOD = Trial("S", "N", "-", "-", "-", "-", "-", "A01", SPOOF)


@pytest.mark.parametrize(
    ("trials", "fault"),
    [
        ([], "no trials to write"),
        ([GOOD, GOOD], "N occurs twice"),
        ([replace(GOOD, speaker="two words")], "white space"),
        ([replace(GOOD, gender="")], "empty field"),
        ([replace(GOOD, label=2)], "label 2"),
        ([replace(GOOD, label=BONAFIDE)], "contradict"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    tmp_path: Path, trials: list[Trial], fault: str
) -> None:
    with pytest.raises(ProtocolError, match=fault):
        write_protocol(tmp_path / "p.tsv", trials)
    assert list(tmp_path.iterdir()) == []


def test_open_split_finds_trials_and_audio(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", trials_per_split=5, seconds=0.1)
    for name in SPLITS:
        split = open_split(corpus, name)
        assert (split.name, len(split.trials)) == (name, 5)
        assert all(split.audio_path(trial).is_file() for trial in split.trials)
        assert {trial.label for trial in split.trials} == {BONAFIDE, SPOOF}


def test_open_split_accepts_mirror_and_legacy_names(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, trials_per_split=4, seconds=0.1)
    (corpus / "flac_E_eval").rename(corpus / "flac_E")
    (corpus / "ASVspoof5.train.tsv").unlink()
    (corpus / "ASVspoof5.train.metainfor.txt").write_text(LEGACY)
    assert open_split(corpus, "eval").audio_dir == corpus / "flac_E"
    assert len(open_split(corpus, "train").trials) == 3


def test_open_split_names_what_is_missing(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", trials_per_split=4, seconds=0.1)
    with pytest.raises(ProtocolError, match="unknown split 'test'; choose one of train, dev, eval"):
        open_split(corpus, "test")
    with pytest.raises(ProtocolError, match=r"absent does not exist"):
        open_split(tmp_path / "absent", "dev")
    (corpus / "ASVspoof5.dev.track_1.tsv").unlink()
    with pytest.raises(ProtocolError, match=r"ASVspoof5\.dev\.track_1\.tsv"):
        open_split(corpus, "dev")
    (corpus / "flac_E_eval").rename(corpus / "audio")
    with pytest.raises(ProtocolError, match=r"flac_E_eval or .*flac_E does not exist"):
        open_split(corpus, "eval")


def test_real_directory_with_withheld_labels() -> None:
    folder = SHARED_DATA / "neural"
    if not folder.is_dir():
        pytest.skip("the neural corpus (shared/data/neural) is not beside this checkout")
    splits = {name: open_split(folder, name) for name in SPLITS}
    assert {name: len(split.trials) for name, split in splits.items()} == {
        "train": 437, "dev": 55, "eval": 304,
    }  # fmt: skip
    assert {trial.label for trial in splits["eval"].trials} == {None}
    assert {trial.label for trial in splits["train"].trials} == {BONAFIDE, SPOOF}
    assert all(split.audio_path(t).is_file() for split in splits.values() for t in split.trials)
