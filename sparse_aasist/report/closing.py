"""The last section: how to read the report, its limits, and how to get it again."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from sparse_aasist.report.content import Block, Command, Paragraph, Section
from sparse_aasist.report.facts import Facts
from sparse_aasist.sweep.grid import DENSE, Grid
from sparse_aasist.training.config import PRESETS, TrainingConfig

_OPTIONS = ("epochs", "batch_size", "lr", "lr_min", "precision")


def how_to_read(facts: Facts) -> Section:
    """Explain, limit, and name the commands."""
    texts = (
        "EER: the error rate at the threshold where bona fide speech is rejected as often as "
        "spoofed speech is accepted. minDCF: cost at the best threshold, ASVspoof5 track 1 (spoof "
        "prior 5 %, false acceptance ten times as dear); 1 is a system that decides nothing. "
        "actDCF: the same at the fixed threshold that scores promise as log likelihood ratios. "
        "Cllr: what the scores are worth as such ratios, in bits; 1 is worthless. All lower is "
        "better.",
        "Intervals draw whole speakers, and seeds besides: trials of one speaker are not "
        "independent. With three seeds the part from training is a rough guess. Attacks are not "
        "drawn: nothing is said about attacks that are not in the data.",
        "Limits. Dev chooses the epoch, the configuration and the calibration, so figures on dev "
        "are optimistic. Attacks and speakers are few in a small corpus, and one attack can carry "
        "a difference. Intervention changes one dimension at a time, after TopK, without "
        "training again. Information is measured by bins of single dimensions; what is coded in "
        "several together is not seen.",
        "Tags of numbers from the paper: [secondary] known from a third-party summary, [inferred] "
        "our reasoning; without a tag read in the source.",
        "This page and the two tables beside it (results.csv: every run and condition; "
        "configurations.csv: every configuration) come from:",
    )
    blocks: list[Block] = [Paragraph(text) for text in texts]
    folder, data = (shlex.quote(str(path.resolve())) for path in _paths(facts))
    blocks.append(Command(f"sparse-aasist report {folder} --data {data}"))
    arguments = _grid_arguments(facts)
    if arguments is None:
        text = "The runs are not the product of one grid; sweep.json in the folder lists them."
        blocks.append(Paragraph(text))
    else:
        blocks.append(Paragraph("and the runs, finished ones being left alone, from:"))
        blocks.append(Command(f"sparse-aasist sweep {arguments} --data {data} --output {folder}"))
    return Section("reading", "How to read this, limits, and how to get it again", blocks)


def _paths(facts: Facts) -> tuple[Path, Path]:
    collection = facts.collection
    return collection.folder.path, collection.splits["train"].audio_dir.parent


def _grid_arguments(facts: Facts) -> str | None:
    """Return the options of `sparse-aasist sweep` that plan exactly these runs, if any do."""
    configs = [run.config for run in facts.collection.folder.runs()]
    models = [config.model for config in configs]
    axes = {
        "dims": [model.dim for model in models],
        "ks": [DENSE if model.is_dense else model.k for model in models],
        "seeds": [config.seed for config in configs],
        "sigmoids": [model.sigmoid for model in models],
        "topk_bys": [model.topk_by for model in models],
        "topk_orders": [model.topk_order for model in models],
    }
    grid = Grid(**{name: tuple(dict.fromkeys(values)) for name, values in axes.items()})
    preset = _preset(configs[0])
    if preset is None or {*map(repr, grid.runs(configs[0]))} != {*map(repr, configs)}:
        return None
    sigmoid = "both" if len(grid.sigmoids) == 2 else "on" if grid.sigmoids[0] else "off"
    words = [("dims", grid.dims), ("ks", grid.ks), ("seeds", grid.seeds), ("sigmoid", [sigmoid])]
    words += [("topk-by", grid.topk_bys), ("topk-order", grid.topk_orders), ("preset", [preset])]
    words += [(name.replace("_", "-"), [getattr(configs[0], name)]) for name in _OPTIONS]
    return " ".join(f"--{name} {' '.join(map(str, values))}" for name, values in words)


def _preset(config: TrainingConfig) -> str | None:
    """Return the preset that gives this recipe with the options of the command line."""
    given = {name: getattr(config, name) for name in _OPTIONS}
    for name, values in PRESETS.items():
        made = TrainingConfig(**{**values, **given})
        axes = {key: getattr(config.model, key) for key in ("dim", "k", "sigmoid")}
        axes |= {key: getattr(config.model, key) for key in ("topk_by", "topk_order")}
        model = dataclasses.replace(made.model, **axes)
        if dataclasses.replace(made, model=model, seed=config.seed) == config:
            return name
    return None
