"""Build the small real corpus: fetch, look through, make, finish, check, and put it in place.

Work happens in a hidden folder beside the result; a build that was interrupted continues there,
and the corpus appears under its name complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sparse_aasist.corpus import finish, workers
from sparse_aasist.corpus.engines import ENGINES
from sparse_aasist.corpus.fetch import Fetched
from sparse_aasist.corpus.manifest import MANIFEST, build_manifest, code_digest, module_versions
from sparse_aasist.corpus.recipe import (
    BONAFIDE,
    Clip,
    NamedClip,
    Partition,
    plan_partition,
    stable_seed,
)
from sparse_aasist.corpus.runner import Runner
from sparse_aasist.corpus.shortcuts import (
    ShortcutResult,
    check_shortcuts,
    found_shortcuts,
    shortcut_features,
)
from sparse_aasist.data.audio import read_trial_audio
from sparse_aasist.data.protocol import SPLITS, Trial, write_protocol
from sparse_aasist.errors import CorpusError
from sparse_aasist.files import write_text

MIN_TRAIN_ATTACKS = 2
MAX_LOST = 0.1
FINISH_BATCH = 20
_NAME_PREFIX = {"train": "T", "dev": "D", "eval": "E"}


class Builder:
    """One build from fetched packages: the stages in order, sharing work folder and workers.

    Args:
        out_dir: where the corpus shall appear.
        recipe: its partitions.
        fetched: packages, folders and usable engines.
        runner: entered context of workers and progress bars.
    """

    def __init__(
        self, out_dir: Path, recipe: Sequence[Partition], fetched: Fetched, runner: Runner
    ) -> None:
        self.out_dir = out_dir
        self.recipe = recipe
        self.fetched = fetched
        self.runner = runner
        self.work = work_folder(out_dir)
        self.context = workers.Context(self.work, fetched.speech_roots, fetched.engine_root)

    def build(self, size: str) -> Path:
        """Run all stages and return the corpus folder."""
        self._prepare_work()
        clips = self._plan(self._scan())
        lengths = self._make(clips)
        made = [clip for clip in clips if clip.key in lengths]
        check_enough(made)
        named = [item for part in self.recipe for item in self._name(part.name, made, lengths)]
        self._finish(named)
        results = self._check(named)
        folder = self.work / "corpus"
        for part in self.recipe:
            trials = [_trial(item) for item in named if item.clip.partition == part.name]
            write_protocol(folder / SPLITS[part.name][1], trials)
        manifest = build_manifest(
            size, self.recipe, named, self.fetched, results, self.runner.warnings
        )
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        if self.out_dir.exists():
            self.out_dir.rmdir()
        folder.rename(self.out_dir)
        shutil.rmtree(self.work)
        return self.out_dir

    def _prepare_work(self) -> None:
        """Keep the work of an interrupted build only if it was this very build."""
        packages = {name: p.sha256 for name, p in sorted(self.fetched.packages.items())}
        modules = module_versions(self.fetched.engines)
        identity = [repr(self.recipe), code_digest(), self.fetched.engines, packages, modules]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        marker = self.work / "build.txt"
        if marker.is_file() and marker.read_text(encoding="utf-8") == digest:
            self.runner.console.print(f"continuing the interrupted build in {self.work}")
            return
        shutil.rmtree(self.work, ignore_errors=True)
        write_text(marker, digest)

    def _scan(self) -> dict[str, list[str]]:
        # Twice a fair share, because some speakers have few recordings and others stand in.
        wanted = {
            speaker: -(-2 * part.recordings // len(part.speakers))
            for part in self.recipe
            for speaker in part.speakers
        }
        tasks = [(name, (self.context, name, count), 1) for name, count in wanted.items()]
        return self.runner.run("looking through recordings", workers.scan_speaker, tasks)

    def _plan(self, recordings: dict[str, list[str]]) -> list[Clip]:
        engines = frozenset(self.fetched.engines)
        parts = [plan_partition(part, recordings, engines) for part in self.recipe]
        return [clip for clips in parts for clip in clips]

    def _make(self, clips: Sequence[Clip]) -> dict[str, int]:
        """Make raw speech; return key -> samples of the clips that came out."""
        tasks = [(job.name, (self.context, job), len(job.clips)) for job in batch_jobs(clips)]
        done = self.runner.run("making clips", workers.run_job, tasks)
        lengths = {key: samples for result in done.values() for key, samples in result.items()}
        planned = Counter(clip.attack for clip in clips)
        lost = Counter(clip.attack for clip in clips if clip.key not in lengths)
        for attack, count in sorted(lost.items()):
            # A few clips come out too short by chance; more than that deserves a word.
            if count > MAX_LOST * planned[attack]:
                self.runner.warn(f"{attack}: {count} of {planned[attack]} clips cannot be made")
        return lengths

    def _name(
        self, partition: str, clips: Sequence[Clip], lengths: dict[str, int]
    ) -> list[NamedClip]:
        """Give a partition's clips lengths, and names whose order says nothing about the class."""
        own = [clip for clip in clips if clip.partition == partition]
        own.sort(key=lambda clip: stable_seed(f"name/{clip.key}"))
        bonafide = [clip.key for clip in own if clip.attack == BONAFIDE]
        spoof = [clip.key for clip in own if clip.attack != BONAFIDE]
        of_bonafide, of_spoof = finish.equal_lengths(
            [lengths[key] for key in bonafide], [lengths[key] for key in spoof]
        )
        target = dict(zip(bonafide + spoof, of_bonafide + of_spoof, strict=True))
        folder = self.work / "corpus" / SPLITS[partition][0]
        names = [f"{_NAME_PREFIX[partition]}_{number:010d}" for number in range(1, len(own) + 1)]
        return [
            NamedClip(name, clip, folder / f"{name}.flac", target[clip.key])
            for name, clip in zip(names, own, strict=True)
        ]

    def _finish(self, named: Sequence[NamedClip]) -> None:
        chunks = [named[i : i + FINISH_BATCH] for i in range(0, len(named), FINISH_BATCH)]
        tasks = [(chunk[0].name, (self.context, chunk), len(chunk)) for chunk in chunks]
        done = self.runner.run("finishing clips", workers.finish_clips, tasks)
        if len(done) < len(chunks):
            raise CorpusError(
                f"some clips could not be finished ({self.runner.warnings[-1]}); "
                f"delete {self.work} and build again"
            )

    def _check(self, named: Sequence[NamedClip]) -> list[ShortcutResult]:
        features: dict[str, list] = {part.name: [] for part in self.recipe}
        labels: dict[str, list[int]] = {part.name: [] for part in self.recipe}
        bar = self.runner.progress.add_task("checking for shortcuts", total=len(named))
        for item in named:
            features[item.clip.partition].append(shortcut_features(read_trial_audio(item.path)))
            labels[item.clip.partition].append(int(item.clip.attack == BONAFIDE))
            self.runner.progress.advance(bar)
        results = check_shortcuts({n: np.array(f) for n, f in features.items()}, labels)
        for r in results:
            self.runner.console.print(
                f"shortcut check, {r.classifier}, {r.partition}: EER {100 * r.eer:.1f} % "
                f"(chance 50 %, must stay above {100 * r.limit:.0f} %)"
            )
        if found := found_shortcuts(results):
            raise CorpusError(
                f"{found[0].classifier} on level, silence, duration and bandwidth alone reaches "
                f"{100 * found[0].eer:.1f} % EER on {found[0].partition}: the corpus would reward "
                f"a shortcut and is withheld; look at its clips in {self.work}"
            )
        return results


def work_folder(out_dir: Path) -> Path:
    """Return the hidden folder beside `out_dir` where it is built."""
    return out_dir.parent / f".{out_dir.name}.building"


def check_enough(clips: Sequence[Clip]) -> None:
    """Raise CorpusError when the clips cannot make up a corpus."""
    attacks: dict[str, set[str]] = {name: set() for name in SPLITS}
    for clip in clips:
        attacks[clip.partition].add(clip.attack)
    for name, present in attacks.items():
        if BONAFIDE not in present:
            raise CorpusError(
                f"the {name} partition has no bona fide clip; see the messages about packages "
                "above, then build again"
            )
    seen = attacks["train"] - {BONAFIDE}
    unseen = attacks["eval"] - attacks["train"]
    if len(seen) < MIN_TRAIN_ATTACKS or not unseen or len(attacks["dev"]) < 2:
        raise CorpusError(
            f"only {len(seen)} attacks in train and {len(unseen)} unseen ones in eval can be "
            "made; see the messages about engines above, install what they name, build again"
        )


def batch_jobs(clips: Iterable[Clip]) -> list[workers.Job]:
    """Group clips into batches that depend on the plan alone, never on workers or their speed."""
    groups: dict[tuple[str, str, str], list[Clip]] = {}
    for clip in clips:
        groups.setdefault((clip.partition, clip.attack, clip.engine), []).append(clip)
    jobs = []
    for (partition, attack, engine), group in groups.items():
        batch = ENGINES[engine].batch if engine else workers.RECORDING_BATCH
        # Voice by voice, for engines whose start-up dominates.
        ordered = sorted(group, key=lambda clip: clip.voice)
        for start in range(0, len(ordered), batch):
            name = f"{partition}/{attack}/{start:05d}"
            jobs.append(workers.Job(name, engine, tuple(ordered[start : start + batch])))
    return jobs


def _trial(item: NamedClip) -> Trial:
    clip = item.clip
    label = int(clip.attack == BONAFIDE)
    return Trial(clip.speaker, item.name, clip.gender, "-", "-", "-", "-", clip.attack, label)
