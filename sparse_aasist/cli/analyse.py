"""`sparse-aasist analyse`: what the dimensions of a model stand for, measured on dev and train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_aasist.cli.arguments import integer_from

if TYPE_CHECKING:
    from rich.console import Console

    from sparse_aasist.analysis.dimension import Shift
    from sparse_aasist.data.protocol import Split
    from sparse_aasist.scoring import Scores

HELP = "measure what the dimensions of a model stand for; `explain` names them by it"
FILE_NAME = "dev_analysis.json"
MAX_ROWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("checkpoint", type=Path, help="best.safetensors of a run, or a published .pth")
    add("--conf", type=Path, metavar="FILE", help="upstream's .conf beside a published .pth")
    add("--data", type=Path, metavar="DIR", help="default: the small real corpus, built if absent")
    add("--output", type=Path, metavar="DIR", help="default: the folder of the checkpoint")
    add("--batch-size", type=integer_from(1), default=24, help="trials per forward pass (24)")
    add("--workers", type=integer_from(0), default=0, help="loader processes (0)")


def run(arguments: argparse.Namespace) -> int:
    """Score dev and train, analyse, write the file and print its gist."""
    import numpy as np
    from rich.console import Console

    from sparse_aasist.analysis.model_analysis import analyse, write_analysis
    from sparse_aasist.analysis.neighbours import compare_with_training
    from sparse_aasist.cli.data import corpus_or
    from sparse_aasist.data.protocol import has_split, open_split
    from sparse_aasist.errors import ScoreError
    from sparse_aasist.evaluation.calibration import fit_calibration
    from sparse_aasist.files import check_writable, digest
    from sparse_aasist.models.checkpoint import scoring_samples

    console = Console()
    made_from = digest(arguments.checkpoint)
    data = corpus_or(arguments.data, console)
    dev = open_split(data, "dev")
    train = open_split(data, "train") if has_split(data, "train") else None
    # Asked before an hour of scoring rather than after it.
    withheld = next((trial.name for trial in dev.trials if trial.label is None), None)
    if withheld is not None:
        raise ScoreError(f"dev: trial {withheld} has no label; an analysis needs all labels of dev")
    folder = arguments.output or arguments.checkpoint.parent
    check_writable(folder)
    scored, *more = _score(arguments, [dev] if train is None else [dev, train], console)
    acoustics = _acoustics(dev, scoring_samples(arguments.checkpoint), folder, console)
    with console.status("analysing dev"):
        analysis = analyse(scored.embeddings, dev.trials, scored.scores, acoustics=acoustics)
        labels = [trial.label for trial in dev.trials]
        analysis["calibration"] = fit_calibration(scored.scores, labels).to_dict()
        analysis["train_attacks"] = {}
        if train is not None:
            names = np.array([trial.attack for trial in train.trials])
            analysis |= compare_with_training(
                more[0].embeddings.embeddings, names, scored.embeddings.embeddings, labels
            )
        analysis["checkpoint_sha256"] = made_from
    write_analysis(folder / FILE_NAME, analysis)
    _print(analysis, console)
    console.print(f"analysis: {folder / FILE_NAME}", soft_wrap=True, markup=False)
    return 0


def _score(arguments: argparse.Namespace, splits: list[Split], console: Console) -> list[Scores]:
    from functools import partial

    from rich.progress import track

    from sparse_aasist.engine import make_fabric
    from sparse_aasist.models import AASIST
    from sparse_aasist.models.checkpoint import scoring_samples
    from sparse_aasist.runtime import tune_process
    from sparse_aasist.scoring import score_trials

    tune_process()
    fabric = make_fabric()
    model = fabric.to_device(AASIST.from_checkpoint(arguments.checkpoint, arguments.conf))
    return [
        score_trials(
            fabric,
            model,
            split,
            scoring_samples(arguments.checkpoint),
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            embeddings=True,
            track=partial(track, description=f"scoring {split.name}", console=console),
        )
        for split in splits
    ]


def _acoustics(split: Split, samples: int, folder: Path, console: Console) -> dict | None:
    from rich.progress import track

    from sparse_aasist.analysis.acoustics import measure_split

    found = measure_split(
        split,
        samples,
        folder / f"{split.name}_acoustics.tsv",
        lambda paths: track(paths, "measuring dev", console=console),
    )
    if found is None:
        console.print(
            "acoustic factors are skipped, because parselmouth is not installed: "
            'pip install "sparse-aasist[acoustics]"',
            markup=False,
        )
    return found


def _print(analysis: dict[str, Any], console: Console) -> None:
    _print_dimensions(analysis, console)
    confirmed = [
        f"{attack} (dimension {entry['dimension']}{', causal' if entry['causal'] else ''})"
        for attack, entry in (analysis["dedicated"] or {}).items()
        if entry["confirmed"]
    ]
    lines = [
        f"dead dimensions (never active on dev): {analysis['usage']['never_active']} of "
        f"{len(analysis['usage']['active_share'])}",
        "classes with a dimension of their own, confirmed on a held-out half of dev: "
        + (", ".join(confirmed) or "none"),
    ]
    if analysis["undetected"]:
        lines.append(f"attacks with an EER of 20 % or more: {', '.join(analysis['undetected'])}")
    if shares := analysis.get("unlike_training"):
        lines.append(
            f"unlike every class of train: {100 * shares['bonafide']:.1f} % of bona fide and "
            f"{100 * shares['spoof']:.1f} % of spoofed dev trials"
        )
    else:
        lines.append("no class of train has ten labelled trials: explain can name no nearest one")
    lines += [f"note: {note}" for note in analysis["notes"]]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_dimensions(analysis: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    from sparse_aasist.analysis.dimension import block_of, largest_shift, ties_of

    dims = len(analysis["usage"]["active_share"])
    tied = [(ties[0], d) for d in range(dims) if (ties := ties_of(analysis, d))]
    tied.sort(key=lambda entry: -entry[0].nmi)
    table = Table(box=None, pad_edge=False)
    for header in ("dim", "block", "tied to", "M", "null", "p", "silenced: dev EER %"):
        words = header in ("block", "tied to", "silenced: dev EER %")
        table.add_column(header, justify="left" if words else "right", no_wrap=True)
    for tie, dimension in tied[:MAX_ROWS]:
        table.add_row(
            str(dimension),
            block_of(dimension, dims),
            tie.attack,
            f"{tie.nmi:.3f}",
            f"{tie.null_quantile:.3f}",
            f"{tie.p_value:.3f}",
            shift_text(largest_shift(analysis, dimension)),
        )
    console.print(table, markup=False, highlight=False)
    rest = len(tied) - MAX_ROWS
    console.print(
        f"{len(tied)} of {dims} dimensions go with a class of dev beyond chance"
        + (f"; {rest} more are in the file" if rest > 0 else ""),
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def shift_text(shift: Shift | None) -> str:
    """Return the attack and its EER in percent before and after."""
    if shift is None:
        return "none moves"
    return f"{shift.attack} {100 * shift.eer:.1f} -> {100 * shift.eer_silenced:.1f}"
