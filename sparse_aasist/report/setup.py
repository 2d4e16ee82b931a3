"""Section: what was run, and what is missing."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from sparse_aasist.data.protocol import ABSENT, BONAFIDE, SPOOF, Split
from sparse_aasist.evaluation.trials import codec_name
from sparse_aasist.report.content import Block, Paragraph, Section, Table
from sparse_aasist.report.facts import Facts, read_environment
from sparse_aasist.report.text import NONE, listed, percent
from sparse_aasist.sweep.grid import shared_recipe

_REPORTED = ("numpy", "scipy", "scikit-learn", "matplotlib")


def what_was_run(facts: Facts) -> Section:
    """Describe data, recipe, runs and versions, and what is not there."""
    splits = facts.collection.splits
    blocks: list[Block] = [Paragraph(text, loud=True) for text in _warnings(facts)]
    blocks += [
        Table(
            ("split", "attacks", "codecs", "trials", "bona fide", "spoof", "speakers"),
            [_data(split, facts) for split in splits.values()],
            "Data. An attack in brackets was not in training.",
            words=3,
        ),
        _runs(facts),
        Table(
            ("setting", "value"),
            _recipe(facts),
            "Recipe that all runs share; the k x D x seed grid varies the rest.",
            words=2,
            folded="Recipe of training",
        ),
        Table(
            ("what", "version"),
            _versions(facts),
            "Versions in training, as the runs recorded them, and in this report.",
            words=2,
            folded="Versions",
        ),
    ]
    return Section("what-was-run", "What was run", blocks)


def _warnings(facts: Facts) -> list[str]:
    collection = facts.collection
    texts = []
    for name, seeds in collection.missing.items():
        left = len(collection.planned[name].runs)
        seed = f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)} not finished"
        rest = f"its row is over {left} {'seed' if left == 1 else 'seeds'}"
        texts.append(f"{name}: {seed}; {rest if left else 'it has no row'}.")
    texts += [
        f"Nothing is measured on {name}: {reason}." for name, reason in collection.unscored.items()
    ]
    if not facts.is_the_papers_corpus:
        texts.append(
            "These are not the trials of ASVspoof5 that arXiv 2510.05696 reports on. Nothing here "
            "reproduces or refutes a number of that paper; its claims are put to other data."
        )
    if any(len(c.runs) < 3 for c in collection.configurations):
        texts.append(
            "Some configurations have fewer than three runs. Retraining alone moves the EER by "
            "points, so their differences may be chance."
        )
    return texts


def _data(split: Split, facts: Facts) -> tuple[str, ...]:
    trials = split.trials
    seen = facts.collection.seen_attacks
    attacks = sorted({trial.attack for trial in trials if trial.label == SPOOF})
    names = [a if a in seen else f"[{a}]" for a in attacks]
    codecs = sorted({codec_name(trial.codec) for trial in trials})
    counts = [sum(trial.label == label for trial in trials) for label in (BONAFIDE, SPOOF)]
    return (
        split.name,
        ", ".join(names) or NONE,
        ", ".join(codecs),
        str(len(trials)),
        *map(str, counts),
        str(len({trial.speaker for trial in trials} - {ABSENT}) or NONE),
    )


def _runs(facts: Facts) -> Table:
    rows = []
    for name, planned in facts.collection.planned.items():
        summaries = [run.read_summary() for run in planned.runs]
        model = planned.model
        minutes = sum(summary["train_seconds"] for summary in summaries) / 60
        rows.append(
            (
                name,
                listed([run.config.seed for run in planned.runs]),
                listed(planned.missing),
                str(model.dim),
                str(model.kept),
                percent(1 - model.kept / model.dim),
                listed([summary["best_epoch"] for summary in summaries]),
                f"{minutes:.0f}",
            )
        )
    head = ("configuration", "seeds finished", "seeds missing", "D", "k", "nominal zeros, %")
    return Table(
        (*head, "best epoch by seed", "training, minutes"),
        rows,
        "Runs. Each keeps the epoch with the lowest EER on all of dev; eval is never used to "
        "choose. Dense: k = D, TopK changes nothing. Minutes leave out what an interruption cut "
        "off.",
        words=3,
    )


def _recipe(facts: Facts) -> list[tuple[str, str]]:
    recipe = shared_recipe(facts.collection.recipe)
    model = recipe.pop("model")
    data = facts.collection.splits["train"].audio_dir.parent
    return [
        ("data", str(data)),
        *((key, _value(value)) for key, value in recipe.items()),
        *((f"model.{key}", _value(value)) for key, value in model.items()),
    ]


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    return str(value)


def _versions(facts: Facts) -> list[tuple[str, str]]:
    records = [read_environment(run) for run in facts.collection.runs]
    keys = list(dict.fromkeys(key for record in records for key in record))
    trained = [(f"training: {key}", _distinct([r.get(key) for r in records])) for key in keys]
    report = [(f"report: {name}", version(name)) for name in _REPORTED]
    return [*trained, ("report: python", platform.python_version()), *report]


def _distinct(values: Sequence[object]) -> str:
    return "; ".join(np.unique([str(value) for value in values]).tolist())
