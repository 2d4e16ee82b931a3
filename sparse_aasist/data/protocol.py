"""Trial lists ("protocols") and folder layout of ASVspoof5 track 1.

The ten-column form is that of the released data set (Zenodo record 14498691); the six-column
form is that of the challenge phase, which the official baselines parse.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sparse_aasist.errors import ProtocolError
from sparse_aasist.files import read_lines, write_text

BONAFIDE, SPOOF = 1, 0
ABSENT = "-"

RELEASED_COLUMNS = 10
LEGACY_COLUMNS = 6
SPLITS = {
    "train": ("flac_T", "ASVspoof5.train.tsv"),
    "dev": ("flac_D", "ASVspoof5.dev.track_1.tsv"),
    "eval": ("flac_E_eval", "ASVspoof5.eval.track_1.tsv"),
}

_LABELS = {"bonafide": BONAFIDE, "spoof": SPOOF, ABSENT: None}
_KEYS = {label: key for key, label in _LABELS.items()}
_HEADER_WORDS = {"speaker", "speaker_id", "spk", "file", "filename", "flac_file_name", "key"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of a protocol; a text field is "-" when the protocol does not give it.

    attack is "bonafide" for bona fide trials; label is 1 (bona fide), 0 (spoof) or None when
    the protocol withholds it, as in the evaluation phase of a challenge.
    """

    speaker: str
    name: str
    gender: str
    codec: str
    codec_quality: str
    codec_seed: str
    attack_tag: str
    attack: str
    label: int | None


@dataclass(frozen=True)
class Split:
    """The trials of one split and the folder that holds their audio."""

    name: str
    trials: tuple[Trial, ...]
    audio_dir: Path

    def audio_path(self, trial: Trial) -> Path:
        """Return the audio file of `trial` (it need not exist)."""
        return self.audio_dir / f"{trial.name}.flac"


def read_protocol(path: str | os.PathLike[str]) -> list[Trial]:
    """Read a trial list in the released ten-column or the legacy six-column form.

    Columns, separated by spaces, without a header; the number of fields tells the forms apart:
    `speaker file gender codec codec_quality codec_seed attack_tag attack key tmp` or
    `speaker file gender codec attack key`; key is bonafide, spoof, or "-" when withheld.

    Args:
        path: the text file, whatever its suffix.

    Returns:
        One trial per line, in the order of the file.

    Raises:
        ProtocolError: the file is missing, no text or empty, has a header line, a line with
            another number of columns, an unknown key, a key and an attack that disagree, or a
            trial listed twice; names the file and the line.

    Source: ASVspoof5 README; asvspoof-challenge/asvspoof5: Baseline-AASIST/data_utils.py.
    """
    lines = read_lines(path, "protocol", ProtocolError)
    columns = _count_columns(path, lines[0])
    trials = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) != columns:
            raise ProtocolError(
                f"{path}, line {number}: {len(fields)} columns, {columns} expected as in line 1; "
                "repair or remove the line"
            )
        trial = _parse(fields, path, number)
        if trial.name in seen:
            raise ProtocolError(
                f"{path}, line {number}: trial {trial.name} is listed a second time; remove one "
                "of its lines"
            )
        seen.add(trial.name)
        trials.append(trial)
    return trials


def write_protocol(path: str | os.PathLike[str], trials: Iterable[Trial]) -> None:
    """Write trials in the released ten-column form; the file appears complete or not at all.

    Raises:
        ProtocolError: there are no trials, one occurs twice, or one has a field that is empty
            or holds white space, an unknown label, or an attack that contradicts its label.
        OSError: the file cannot be written.
    """
    lines = []
    names: set[str] = set()
    for trial in trials:
        if trial.label not in _KEYS:
            raise ProtocolError(
                f"{path}: trial {trial.name} has label {trial.label!r}; use 1 (bona fide), "
                "0 (spoof) or None (withheld)"
            )
        key = _KEYS[trial.label]
        if (trial.attack == "bonafide") != (key == "bonafide"):
            raise ProtocolError(_disagreement(f"{path}: trial {trial.name}", trial.attack, key))
        fields = (
            trial.speaker, trial.name, trial.gender, trial.codec, trial.codec_quality,
            trial.codec_seed, trial.attack_tag, trial.attack, key, ABSENT,
        )  # fmt: skip
        line = " ".join(fields)
        if line.split() != list(fields):
            raise ProtocolError(
                f"{path}: trial {trial.name!r} has an empty field or one with white space; "
                'write "-" for a field that is absent'
            )
        if trial.name in names:
            raise ProtocolError(f"{path}: trial {trial.name} occurs twice; give it once")
        names.add(trial.name)
        lines.append(line)
    if not lines:
        raise ProtocolError(f"{path}: there are no trials to write; give at least one")
    write_text(path, "\n".join(lines) + "\n")


def open_split(data_dir: str | os.PathLike[str], split: str) -> Split:
    """Open one split of a data directory in ASVspoof5 layout.

    Accepts the folder `flac_E` for eval, as some mirrors have it, and the legacy protocol name
    `ASVspoof5.<split>.metainfor.txt`. Audio files are not touched.

    Args:
        data_dir: folder that holds the protocol and the audio folder.
        split: "train", "dev" or "eval".

    Raises:
        ProtocolError: unknown split, or the directory, protocol or audio folder is missing.
    """
    if split not in SPLITS:
        raise ProtocolError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise ProtocolError(
            f"data directory {data_dir} does not exist; give the folder that holds "
            f"{SPLITS[split][1]}"
        )
    folder = SPLITS[split][0]
    folders = (folder, "flac_E") if split == "eval" else (folder,)
    protocol_path = _first([data_dir / name for name in _protocol_names(split)], Path.is_file)
    audio_dir = _first([data_dir / name for name in folders], Path.is_dir)
    return Split(split, tuple(read_protocol(protocol_path)), audio_dir)


def has_split(data_dir: str | os.PathLike[str], split: str) -> bool:
    """Tell whether a data directory holds the protocol of `split`."""
    return any((Path(data_dir) / name).is_file() for name in _protocol_names(split))


def trials_digest(*splits: Split) -> str:
    """Return a sha256 over the trials of `splits`, in order: equal counts prove nothing."""
    digest = hashlib.sha256()
    for split in splits:
        for trial in split.trials:
            digest.update(repr((split.name, trial)).encode())
    return digest.hexdigest()


def seen_attacks(data_dir: str | os.PathLike[str]) -> frozenset[str]:
    """Return the attacks of the train protocol of a data directory; empty when it has none.

    Raises:
        ProtocolError: the train protocol is there but cannot be read.
    """
    candidates = [Path(data_dir) / name for name in _protocol_names("train")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return frozenset()
    return frozenset(t.attack for t in read_protocol(path) if t.label == SPOOF) - {ABSENT}


def _protocol_names(split: str) -> tuple[str, str]:
    return SPLITS[split][1], f"ASVspoof5.{split}.metainfor.txt"


def _count_columns(path: str | os.PathLike[str], first_line: str) -> int:
    """Tell the form by the first line, and a header from a trial."""
    fields = first_line.split()
    if _HEADER_WORDS & {field.strip("#\ufeff").lower() for field in fields}:
        raise ProtocolError(
            f"{path}, line 1: this is a header line; protocols have none, remove it"
        )
    if len(fields) not in (RELEASED_COLUMNS, LEGACY_COLUMNS):
        raise ProtocolError(
            f"{path}, line 1: {len(fields)} columns, {RELEASED_COLUMNS} (released form) or "
            f"{LEGACY_COLUMNS} (legacy form) expected, separated by spaces; is it a track 1 "
            "protocol?"
        )
    return len(fields)


def _parse(fields: list[str], path: str | os.PathLike[str], number: int) -> Trial:
    if len(fields) == RELEASED_COLUMNS:
        speaker, name, gender, codec, quality, seed, tag, attack, key, _ = fields
    else:
        speaker, name, gender, codec, attack, key = fields
        quality = seed = tag = ABSENT
    if key not in _LABELS:
        raise ProtocolError(
            f"{path}, line {number}: unknown label {key!r}; use bonafide, spoof, or - if withheld"
        )
    if key == "bonafide" and attack == ABSENT:
        attack = "bonafide"
    if (attack == "bonafide") != (key == "bonafide"):
        raise ProtocolError(_disagreement(f"{path}, line {number}", attack, key))
    # Interned: few values recur in hundreds of thousands of rows.
    share = sys.intern
    return Trial(
        share(speaker), name, share(gender), share(codec), share(quality), seed, share(tag),
        share(attack), _LABELS[key],
    )  # fmt: skip


def _disagreement(where: str, attack: str, key: str) -> str:
    return (
        f"{where}: attack {attack} and key {key} contradict each other; only bona fide trials "
        "have the attack bonafide"
    )


def _first(candidates: list[Path], exists: Callable[[Path], bool]) -> Path:
    for candidate in candidates:
        if exists(candidate):
            return candidate
    names = " or ".join(str(candidate) for candidate in candidates)
    raise ProtocolError(f"{names} does not exist; the data directory must have ASVspoof5 layout")
