"""Building from a fake source and fake engines: layout, resume, failures, shortcuts, refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from rich.console import Console

from sparse_aasist.corpus import build_corpus, recipe, sources, workers
from sparse_aasist.corpus import fetch as fetch_module
from sparse_aasist.corpus.build import Builder, work_folder
from sparse_aasist.corpus.debian import DebPackage
from sparse_aasist.corpus.engines import ENGINES, Audio, Engine, Request
from sparse_aasist.corpus.fetch import Fetched, usable_engines
from sparse_aasist.corpus.recipe import Attack, Partition, Voice
from sparse_aasist.corpus.runner import Runner
from sparse_aasist.corpus.sources import Speaker
from sparse_aasist.data.audio import read_trial_audio
from sparse_aasist.data.protocol import open_split
from sparse_aasist.errors import CorpusError

RATE = 16_000
PARTS = {"train": 16, "dev": 20, "eval": 16}


@lru_cache(maxsize=1000)
def babble(seed: int, seconds: float = 3.0) -> np.ndarray:
    """Harmonic syllables whose pitch, tilt and length depend on the seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(int((seconds + rng.uniform(-0.4, 0.4)) * RATE)) / RATE
    f0, tilt = rng.uniform(90, 220), rng.uniform(0.8, 1.6)
    tone = sum(np.sin(2 * np.pi * f0 * k * time) / k**tilt for k in range(1, 16))
    return (0.1 * tone * (np.sin(2 * np.pi * 2.3 * time) > -0.8)).astype(np.float32)


class Talker(Engine):
    kind, licence, batch = "test", "MIT", 5
    calls: ClassVar[list[int]] = []

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        self.calls.append(len(requests))
        return [(babble(request.seed % 10_000), RATE) for request in requests]


class Copier(Engine):
    kind, licence = "test", "MIT"

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        return [(0.5 * request.source, RATE) for request in requests]


class Broken(Engine):
    kind, licence = "test", "MIT"

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        raise RuntimeError("the engine fell over")


class Absent(Engine):
    kind, licence, modules = "test", "MIT", ("no_such_module_anywhere",)

    def speak(self, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        raise AssertionError("an unavailable engine is never asked to speak")


class Inline(Executor):
    """Runs tasks at once in this process, so that fakes and interruptions work."""

    def submit(self, function, /, *arguments):
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recordings of one fake speaker per partition, and fake engines."""
    root = tmp_path / "debian"
    engines = {"talker": Talker, "second": type("Second", (Talker,), {})}
    engines |= {"unseen": type("Unseen", (Talker,), {}), "copier": Copier}
    engines |= {"broken": Broken, "absent": Absent}
    for name, engine in engines.items():
        monkeypatch.setitem(ENGINES, name, engine)
    Talker.calls.clear()
    for number, (part, count) in enumerate(PARTS.items()):
        pattern = f"{part}/*.wav"
        speaker = Speaker(part, "F", "en", (("fake-speech", pattern),))
        monkeypatch.setitem(sources.SPEAKERS, part, speaker)
        (root / part).mkdir(parents=True)
        for index in range(count):
            waveform = np.concatenate([np.zeros(4000), babble(10_000 * number + index)])
            soundfile.write(root / part / f"{index}.wav", waveform, RATE)
    monkeypatch.setitem(sources.LICENCES, "fake-speech", "MIT")
    return root


def small_recipe(*more: Attack) -> tuple[Partition, ...]:
    voices = {part: (Voice(f"voice_{part}", "M"),) for part in PARTS}
    return (
        Partition(
            "train",
            12,
            ("train",),
            (
                Attack("A01", "talker", 8, voices["train"]),
                Attack("A02", "second", 6, voices["train"]),
                *more,
            ),
        ),
        Partition("dev", 10, ("dev",), (Attack("A03", "copier", 6),)),
        Partition("eval", 12, ("eval",), (Attack("A04", "unseen", 10, voices["eval"]),)),
    )


def build(out: Path, root: Path, parts: tuple[Partition, ...], console: Console) -> Path:
    packages = {"fake-speech": DebPackage("fake-speech", "1", "fake.deb", "0" * 64)}
    with Runner(console, Inline) as runner:
        usable = usable_engines(fetch_module.engine_names(parts), None, runner)
        fetched = Fetched(packages, {"fake-speech": root}, None, usable)
        work_folder(out).mkdir(parents=True, exist_ok=True)
        return Builder(out, parts, fetched, runner).build("lean")


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=200, force_terminal=False)


def test_layout_manifest_and_audio(fake: Path, tmp_path: Path, console: Console) -> None:
    out = build(tmp_path / "out", fake, small_recipe(), console)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    counts = {"train": (12, 14), "dev": (10, 6), "eval": (12, 10)}
    for part, (bonafide, spoof) in counts.items():
        split = open_split(out, part)
        labels = [trial.label for trial in split.trials]
        assert (sum(labels), len(labels) - sum(labels)) == (bonafide, spoof)
        # Names in order, classes mixed: no long run of one class.
        assert [t.name for t in split.trials] == sorted(t.name for t in split.trials)
        assert "1" * 9 not in "".join(map(str, labels))
        assert all(t.attack == "bonafide" for t in split.trials if t.label == 1)
        lengths = [read_trial_audio(split.audio_path(t)).size for t in split.trials]
        assert min(lengths) > 1.2 * RATE
        assert manifest["counts"][part]["attacks"]["bonafide"] == bonafide
    entries = {clip["name"]: clip for clip in manifest["clips"]}
    assert len(entries) == 64
    audio = out / "flac_T" / "T_0000000001.flac"
    digest = hashlib.sha256(audio.read_bytes()).hexdigest()
    assert entries["T_0000000001"]["sha256"] == digest
    assert manifest["sources"]["train"]["packages"] == {"fake-speech": "MIT"}
    assert manifest["packages"]["fake-speech"]["sha256"] == "0" * 64
    assert not work_folder(tmp_path / "out").exists()


def test_two_builds_are_equal_bit_for_bit(fake: Path, tmp_path: Path, console: Console) -> None:
    first = build(tmp_path / "first", fake, small_recipe(), console)
    second = build(tmp_path / "second", fake, small_recipe(), console)
    assert contents(first) == contents(second)


def test_interrupted_build_continues_where_it_stopped(
    fake: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(tmp_path / "whole", fake, small_recipe(), console)
    batches = len(Talker.calls)
    Talker.calls.clear()
    speak = Talker.speak

    def stop_at_third(self: Talker, requests: Sequence[Request], seed: int) -> list[Audio | None]:
        if len(Talker.calls) == 2:
            raise KeyboardInterrupt
        return speak(self, requests, seed)

    out = tmp_path / "out"
    monkeypatch.setattr(Talker, "speak", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build(out, fake, small_recipe(), console)
    assert not out.exists()
    monkeypatch.setattr(Talker, "speak", speak)
    assert contents(build(out, fake, small_recipe(), console)) == contents(whole)
    assert "continuing the interrupted build" in console.export_text()
    assert len(Talker.calls) == batches


def test_work_of_another_recipe_is_not_continued(
    fake: Path, tmp_path: Path, console: Console
) -> None:
    out = tmp_path / "out"
    leftover = work_folder(out) / "corpus" / "flac_T" / "T_0000000001.flac"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of an older build")
    (work_folder(out) / "build.txt").write_text("another digest", encoding="utf-8")
    build(out, fake, small_recipe(), console)
    assert read_trial_audio(out / "flac_T" / "T_0000000001.flac").size > RATE


@pytest.mark.parametrize(
    ("engine", "message"),
    [("broken", "the engine fell over"), ("absent", "sparse-aasist[corpus]")],
)
def test_failing_engine_gives_a_message_and_a_smaller_corpus(
    fake: Path, tmp_path: Path, console: Console, engine: str, message: str
) -> None:
    extra = Attack("A09", engine, 6, (Voice("voice_x", "F"),))
    out = build(tmp_path / "out", fake, small_recipe(extra), console)
    assert message in console.export_text()
    attacks = {trial.attack for trial in open_split(out, "train").trials}
    assert attacks == {"bonafide", "A01", "A02"}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert any(message in warning for warning in manifest["warnings"])


def test_too_few_engines_are_an_error(
    fake: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "second", Absent)
    with pytest.raises(CorpusError, match="only 1 attacks in train"):
        build(tmp_path / "out", fake, small_recipe(), console)
    assert not (tmp_path / "out").exists()


def test_no_bona_fide_is_an_error(fake: Path, tmp_path: Path, console: Console) -> None:
    shutil.rmtree(fake / "eval")
    with pytest.raises(CorpusError, match="eval partition has no bona fide"):
        build(tmp_path / "out", fake, small_recipe(), console)


def test_planted_shortcut_stops_the_build(
    fake: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = workers._write_flac

    def louder_bonafide(path: Path, waveform: np.ndarray) -> None:
        final = path.parent.name.startswith("flac_")
        gain = 0.1 if final and int(path.stem[2:]) in quiet[path.stem[0]] else 1.0
        write(path, gain * waveform)

    quiet: dict[str, set[int]] = {}
    name = Builder._name

    def note_spoof(self: Builder, part: str, *arguments) -> list[recipe.NamedClip]:
        named = name(self, part, *arguments)
        quiet[part[0].upper()] = {int(n.name[2:]) for n in named if n.clip.attack != "bonafide"}
        return named

    monkeypatch.setattr(workers, "_write_flac", louder_bonafide)
    monkeypatch.setattr(Builder, "_name", note_spoof)
    with pytest.raises(CorpusError, match="reward a shortcut"):
        build(tmp_path / "out", fake, small_recipe(), console)
    assert not (tmp_path / "out").exists()


def test_full_disk_stops_the_build_and_is_not_taken_for_a_bad_engine(
    fake: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, waveform: np.ndarray) -> None:
        raise OSError(28, f"cannot write {path}: No space left on device")

    monkeypatch.setattr(workers, "_write_flac", full)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path / "out", fake, small_recipe(), console)
    assert not (tmp_path / "out").exists()


def test_complete_corpus_is_returned_at_once(
    fake: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = build(tmp_path / "out", fake, small_recipe(), console)
    before = contents(out)
    monkeypatch.setattr(fetch_module, "fetch", None)
    assert build_corpus(out, cache_dir=tmp_path / "cache", console=console) == out
    assert "complete, nothing to do" in console.export_text()
    assert contents(out) == before
    with pytest.raises(CorpusError, match="holds a lean corpus and a full one"):
        build_corpus(out, full=True, cache_dir=tmp_path / "cache", console=console)


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}"])
def test_foreign_folder_is_refused(tmp_path: Path, manifest: str | None) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("precious", encoding="utf-8")
    if manifest is not None:
        (out / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(CorpusError, match=f"{out} exists and is not a corpus"):
        build_corpus(out, cache_dir=tmp_path / "cache")
    assert (out / "chapter1.txt").read_text(encoding="utf-8") == "precious"


def test_no_apt_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match="apt-get is not installed"):
        build_corpus(tmp_path / "out", cache_dir=tmp_path / "cache", console=Console(quiet=True))
