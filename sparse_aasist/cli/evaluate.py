"""`sparse-aasist evaluate`: score a split with a checkpoint; score file, table, JSON and figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_aasist.cli.arguments import integer_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from sparse_aasist.data.protocol import Trial

HELP = "score a split with a checkpoint and report the official metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("checkpoint", type=Path, help="best.safetensors of a run, or a published .pth")
    add("--conf", type=Path, metavar="FILE", help="upstream's .conf beside a published .pth")
    add("--data", type=Path, metavar="DIR", help="default: the small real corpus, built if absent")
    add("--split", choices=("train", "dev", "eval"), default="eval", help="trials (eval)")
    add("--output", type=Path, metavar="DIR", help="default: the folder of the checkpoint")
    add("--embeddings", action="store_true", help="write the embeddings and the head, .npz")
    add(
        "--precision",
        choices=("32-true", "bf16-mixed", "auto"),
        default="32-true",
        help="auto: what is fastest here, bf16 in the encoder on a GPU (32-true)",
    )
    add("--batch-size", type=integer_from(1), default=24, help="trials per forward pass (24)")
    add("--workers", type=integer_from(0), default=0, help="loader processes (0)")


def run(arguments: argparse.Namespace) -> int:
    """Score, write the score file, and report."""
    from rich.console import Console
    from rich.progress import track

    from sparse_aasist.cli.data import corpus_or
    from sparse_aasist.data.protocol import open_split
    from sparse_aasist.embeddings import embeddings_path
    from sparse_aasist.engine import lay_out, make_fabric, precision_of
    from sparse_aasist.evaluation.scores import write_scores
    from sparse_aasist.files import check_writable
    from sparse_aasist.models import AASIST
    from sparse_aasist.models.checkpoint import scoring_samples
    from sparse_aasist.runtime import tune_process
    from sparse_aasist.scoring import score_trials

    tune_process()
    console = Console()
    model = AASIST.from_checkpoint(arguments.checkpoint, arguments.conf)
    data = corpus_or(arguments.data, console)
    split = open_split(data, arguments.split)
    fabric = make_fabric(arguments.precision)
    lay_out(fabric, model)
    folder = arguments.output or arguments.checkpoint.parent
    check_writable(folder)
    result = score_trials(
        fabric,
        fabric.to_device(model),
        split,
        scoring_samples(arguments.checkpoint),
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        embeddings=arguments.embeddings,
        track=lambda loader: track(loader, f"scoring {arguments.split}", console=console),
    )
    score_file = folder / f"{arguments.split}_scores.tsv"
    write_scores(score_file, [trial.name for trial in split.trials], result.scores)
    console.print(
        f"scores: {score_file} ({len(split.trials)} trials)", soft_wrap=True, markup=False
    )
    if result.embeddings is not None:
        file = embeddings_path(folder, arguments.split)
        result.embeddings.save(file)
        console.print(f"embeddings: {file}", soft_wrap=True, markup=False)
    if any(trial.label is None for trial in split.trials):
        console.print("the protocol withholds labels, so there are no metrics to report")
        return 0
    about = {
        "split": arguments.split,
        "precision": precision_of(fabric),
        "zero_fraction": result.zero_fraction,
    }
    _report(about, split.trials, result.scores, data, folder, console)
    return 0


def _report(
    about: dict[str, Any],
    trials: Sequence[Trial],
    scores: NDArray[np.float64],
    data: Path,
    folder: Path,
    console: Console,
) -> None:
    from sparse_aasist.data.protocol import seen_attacks
    from sparse_aasist.evaluation.conditions import condition_table
    from sparse_aasist.evaluation.figures import plot
    from sparse_aasist.evaluation.report import evaluate_trials, print_table
    from sparse_aasist.files import write_text

    evaluation = evaluate_trials(trials, scores, seen_attacks(data))
    print_table(evaluation, console)
    name, zeros = about["split"], about["zero_fraction"]
    console.print(f"exact zeros in the embedding: {100 * zeros:.2f} % (measured)")
    record = about | evaluation.to_dict()
    write_text(folder / f"{name}_metrics.json", json.dumps(record, indent=2) + "\n")
    plot(evaluation, folder / f"{name}.png")
    written = [("metrics", f"{name}_metrics.json"), ("figure", f"{name}.png")]
    if len({trial.codec for trial in trials}) > 1:
        table = condition_table(trials, scores)
        for kind, text in (("csv", table.to_csv()), ("tex", table.to_latex())):
            written.append(("EER by attack and codec", f"{name}_eer_by_codec.{kind}"))
            write_text(folder / written[-1][1], text)
    for what, file in written:
        console.print(f"{what}: {folder / file}", soft_wrap=True, markup=False)
