"""Everything that the sections of a report draw on, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparse_aasist.analysis.model_analysis import RULES
from sparse_aasist.embeddings import Embeddings, embeddings_path
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.sweep.collect import Collection, Configuration
from sparse_aasist.sweep.folder import SweepRun
from sparse_aasist.sweep.tables import Row, configuration_rows, run_rows
from sparse_aasist.sweep.verdicts import Verdict, judge

HEADLINE = RULES[0]
"""The binning rule of the headline."""
PAPER_TRIALS = {"train": 182_357, "dev": 140_950, "eval": 680_774}
"""Of ASVspoof5 track 1, on which arXiv 2510.05696 reports."""


@dataclass(frozen=True)
class Facts:
    """The finished runs of a sweep, their tables, analyses and verdicts.

    runs, configurations: rows of `run_rows` and `configuration_rows`.
    analyses: by split and run.
    """

    collection: Collection
    runs: list[Row]
    configurations: list[Row]
    analyses: dict[str, dict[str, dict[str, Any]]]
    verdicts: list[Verdict]

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits whose labels are there."""
        return tuple(self.collection.scored)

    @property
    def last_split(self) -> str:
        """Eval, or dev where eval has no labels."""
        return self.splits[-1]

    @property
    def is_the_papers_corpus(self) -> bool:
        found = {name: len(split.trials) for name, split in self.collection.splits.items()}
        return found == PAPER_TRIALS

    @cached_property
    def chosen(self) -> Configuration:
        """The sparse configuration with the lowest mean EER on dev; a dense one if all are."""
        every = self.collection.configurations
        sparse = [c for c in every if not c.is_dense]
        return min(sparse or every, key=lambda c: self.of(c, "dev")["eer"])

    @cached_property
    def rival(self) -> Configuration | None:
        """What the chosen one is set against: the dense one of its width."""
        others = [
            c
            for c in self.collection.configurations
            if c.model.dim == self.chosen.model.dim
            and c.model.sigmoid == self.chosen.model.sigmoid
            and c.is_dense
            and c != self.chosen
        ]
        return min(others, key=lambda c: self.of(c, "dev")["eer"], default=None)

    def best_run(self, configuration: Configuration) -> SweepRun:
        """Return the run with the lowest EER on dev."""
        return min(configuration.runs, key=lambda run: self.pooled(run, "dev")["eer"])

    def of(self, configuration: Configuration, split: str) -> Row:
        return next(
            row
            for row in self.configurations
            if row["configuration"] == configuration.name and row["split"] == split
        )

    def pooled(self, run: SweepRun, split: str) -> Row:
        return next(iter(self.rows([run], split, "pooled")))

    def rows(self, runs: Iterable[SweepRun], split: str, group: str) -> list[Row]:
        names = {run.name for run in runs}
        return [
            row
            for row in self.runs
            if row["run"] in names and row["split"] == split and row["group"] == group
        ]

    def analyses_of(self, configuration: Configuration, split: str) -> list[dict[str, Any]]:
        return [self.analyses[split][run.name] for run in configuration.runs]

    def embeddings(self, run: SweepRun, split: str) -> Embeddings:
        path = embeddings_path(run.path, split)
        trials = self.collection.splits[split].trials
        return Embeddings.load(path).of([trial.name for trial in trials], path)


def gather(collection: Collection, track: Callable[[Iterable, str], Iterable]) -> Facts:
    """Compute tables, analyses and verdicts of a sweep.

    Args:
        collection: its finished runs.
        track: wraps what takes long, with a description, for a progress bar.

    Raises:
        SparseAasistError: as for `Collection.analyses`.
    """
    analyses = {
        split: collection.analyses(split, lambda runs, split=split: track(runs, f"analyse {split}"))
        for split in collection.scored
    }
    return Facts(
        collection,
        run_rows(collection),
        configuration_rows(collection),
        analyses,
        judge(collection, analyses["dev"]),
    )


def read_environment(run: SweepRun) -> dict[str, Any]:
    """Read from config.json of a run what it was trained with.

    Raises:
        SparseAasistError: it is missing or damaged; names it.
    """
    path = run.files.config
    try:
        return json.loads(path.read_text(encoding="utf-8"))["environment"]
    except (OSError, ValueError, KeyError) as error:
        raise SparseAasistError(
            f"{path}: cannot be read ({error}); move the run's folder away and continue the sweep "
            "to have it made again"
        ) from error
