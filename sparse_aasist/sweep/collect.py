"""What the finished runs of a sweep say: scores by configuration, analyses by run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.acoustics import measure_split
from sparse_aasist.analysis.attack_filter import EER_LIMIT, detected_attacks
from sparse_aasist.analysis.model_analysis import analyse, read_analysis, write_analysis
from sparse_aasist.data.protocol import ABSENT, SPOOF, Split
from sparse_aasist.embeddings import Embeddings, embeddings_path
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.bootstrap import speaker_clusters
from sparse_aasist.evaluation.scores import match_scores, read_scores
from sparse_aasist.models import AASISTConfig
from sparse_aasist.sweep.folder import SweepFolder, SweepRun
from sparse_aasist.sweep.grid import configuration_name


@dataclass(frozen=True)
class Configuration:
    """The runs of a sweep that differ in nothing but the seed.

    runs: finished, by seed. missing: seeds that are planned but not finished.
    """

    name: str
    model: AASISTConfig
    runs: tuple[SweepRun, ...]
    missing: tuple[int, ...]

    @property
    def is_dense(self) -> bool:
        return self.model.is_dense


@dataclass(frozen=True)
class ScoredSplit:
    """A split with labels and the scores that every finished run gave it.

    labels: int64 (N,). clusters: int64 (N,), by speaker. attacks: str (N,).
    scores: float64 (N,) by run name.
    """

    split: Split
    labels: NDArray[np.int64]
    clusters: NDArray[np.int64]
    attacks: NDArray[np.str_]
    scores: dict[str, NDArray[np.float64]]

    def of(self, configuration: Configuration) -> NDArray[np.float64]:
        """Return the scores (seeds, N) of a configuration."""
        return np.stack([self.scores[run.name] for run in configuration.runs])


class Collection:
    """All finished runs of a sweep.

    Args:
        folder: of the sweep.
        data_dir: where its data are; None for where they were.

    Raises:
        SparseAasistError: no run is finished, or data or a score file do not fit; names which.
    """

    def __init__(self, folder: SweepFolder, data_dir: str | os.PathLike[str] | None = None) -> None:
        self.folder = folder
        self.splits = folder.splits(data_dir)
        runs = folder.runs()
        self.recipe = runs[0].config
        if not any(run.is_finished for run in runs):
            raise SparseAasistError(
                f"{folder.path}: none of its {len(runs)} runs is finished; continue the sweep"
            )
        by_name: dict[str, list[SweepRun]] = {}
        for run in runs:
            by_name.setdefault(configuration_name(run.config.model), []).append(run)
        self.planned = {
            name: Configuration(
                name,
                planned[0].config.model,
                tuple(run for run in planned if run.is_finished),
                tuple(run.config.seed for run in planned if not run.is_finished),
            )
            for name, planned in by_name.items()
        }
        self.configurations = tuple(c for c in self.planned.values() if c.runs)
        self.runs = tuple(run for c in self.configurations for run in c.runs)

    @property
    def missing(self) -> dict[str, tuple[int, ...]]:
        """Planned seeds that are not finished, by configuration."""
        return {name: c.missing for name, c in self.planned.items() if c.missing}

    @cached_property
    def seen_attacks(self) -> frozenset[str]:
        spoofed = (t.attack for t in self.splits["train"].trials if t.label == SPOOF)
        return frozenset(spoofed) - {ABSENT}

    @cached_property
    def unscored(self) -> dict[str, str]:
        """Why nothing can be measured on a split, by the splits for which that is so."""
        reasons = {}
        for name in ("dev", "eval"):
            split = self.splits.get(name)
            labels = {trial.label for trial in split.trials} if split else set()
            if split is None:
                reasons[name] = f"the data have no {name} split"
            elif None in labels:
                reasons[name] = f"the protocol of {name} withholds labels"
            elif len(labels) < 2:
                reasons[name] = f"the protocol of {name} has trials of one class only"
        return reasons

    @cached_property
    def scored(self) -> dict[str, ScoredSplit]:
        """Dev and, where something can be measured on it, eval."""
        names = (name for name in self.splits if name not in ("train", *self.unscored))
        return {name: self._scored(self.splits[name]) for name in names}

    def _scored(self, split: Split) -> ScoredSplit:
        trials = split.trials
        scores = {}
        for run in self.runs:
            path = run.scores(split.name)
            try:
                scores[run.name] = match_scores(trials, read_scores(path))
            except SparseAasistError as error:
                raise type(error)(f"{path}: {error}") from error
        return ScoredSplit(
            split,
            np.array([trial.label for trial in trials], dtype=np.int64),
            speaker_clusters([trial.speaker for trial in trials]),
            np.array([trial.attack for trial in trials]),
            scores,
        )

    def headline_attacks(self, split: str) -> tuple[str, ...]:
        """Return the attacks on which all models are compared: those detected by most runs.

        An attack counts when the median over the runs of its EER is below 20 %. With fewer than
        two such attacks there is nothing to tell apart, and all are taken.
        """
        scored = self.scored[split]
        rates: dict[str, list[float]] = {}
        for scores in scored.scores.values():
            kept, dropped = detected_attacks(scored.attacks, scores, scored.labels)
            for attack, eer in (kept | dropped).items():
                rates.setdefault(attack, []).append(eer)
        detected = [a for a, eers in rates.items() if np.median(eers) < EER_LIMIT]
        return tuple(sorted(detected if len(detected) >= 2 else rates))

    def analyses(
        self, split: str, track: Callable[[Iterable], Iterable] = iter
    ) -> dict[str, dict[str, Any]]:
        """Analyse every finished run on a split, or read the analysis that is there.

        Acoustic factors are left out where parselmouth is not installed.

        Args:
            split: "dev" or "eval", with labels.
            track: wraps the runs, for a progress bar.

        Raises:
            SparseAasistError: embeddings, scores and trials do not fit; names the file.
        """
        scored = self.scored[split]
        attacks = self.headline_attacks(split)
        cache = self.folder.path / f"{split}_acoustics.tsv"
        acoustics = measure_split(scored.split, self.recipe.eval_samples, cache)
        found = {}
        for run in track(self.runs):
            path = run.path / f"{split}_sweep_analysis.json"
            made_from = {
                "headline": list(attacks),
                "acoustics": sorted(acoustics or ()),
                "checkpoint_sha256": run.read_summary()["checkpoint_sha256"],
            }
            analysis = _earlier(path, made_from)
            if analysis is None:
                analysis = self._analyse(run, scored, attacks, acoustics) | made_from
                write_analysis(path, analysis)
            found[run.name] = analysis
        return found

    def _analyse(
        self, run: SweepRun, scored: ScoredSplit, attacks: tuple[str, ...], acoustics: dict | None
    ) -> dict[str, Any]:
        path: Path = embeddings_path(run.path, scored.split.name)
        trials = scored.split.trials
        embeddings = Embeddings.load(path).of([trial.name for trial in trials], path)
        scores = scored.scores[run.name]
        return analyse(embeddings, trials, scores, attacks=attacks, acoustics=acoustics)


def _earlier(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """Return the analysis in `path` if it is whole and of the same model and factors."""
    try:
        analysis = read_analysis(path)
    except SparseAasistError:
        return None
    return analysis if made_from.items() <= analysis.items() else None
