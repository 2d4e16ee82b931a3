"""`sparse-aasist sweep`: train and score a grid of k x D x seed, then report on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_aasist.cli.arguments import integer_from
from sparse_aasist.cli.train import add_recipe, recipe

HELP = (
    "train, score and report a grid of k x D x seed; resumes, and shares work with other machines"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--dims", type=int, nargs="+", default=[160, 320], help="widths D (160 320)")
    add(
        "--ks",
        nargs="+",
        default=["20", "50", "100", "dense"],
        help="values kept; dense keeps all D (20 50 100 dense)",
    )
    add("--seeds", type=integer_from(0), nargs="+", default=[1, 2, 3], help="seeds (1 2 3)")
    add("--sigmoid", choices=("off", "on", "both"), default="off", help="sigmoid before TopK (off)")
    add("--topk-by", choices=("value", "abs"), nargs="+", default=["value"], help="ranked (value)")
    add(
        "--topk-order",
        choices=("before_dropout", "after_dropout"),
        nargs="+",
        default=["before_dropout"],
        help="TopK before or after dropout (before_dropout)",
    )
    add("--data", type=Path, metavar="DIR", help="default: the small real corpus, built if absent")
    add("--output", type=Path, metavar="DIR", default=Path("runs/sweep"), help="(runs/sweep)")
    add("--workers", type=integer_from(1), help="runs at a time (one per GPU, or one)")
    add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, run and report."""
    from rich.console import Console

    from sparse_aasist.cli.data import corpus_or
    from sparse_aasist.report import write_report
    from sparse_aasist.sweep.collect import Collection
    from sparse_aasist.sweep.folder import SweepFolder
    from sparse_aasist.sweep.grid import Grid, parse_counts
    from sparse_aasist.sweep.runner import run_sweep

    console = Console()
    grid = Grid(
        dims=tuple(arguments.dims),
        ks=parse_counts(arguments.ks),
        seeds=tuple(arguments.seeds),
        sigmoids={"off": (False,), "on": (True,), "both": (False, True)}[arguments.sigmoid],
        topk_bys=tuple(arguments.topk_by),
        topk_orders=tuple(arguments.topk_order),
    )
    folder = SweepFolder(arguments.output)
    data = corpus_or(arguments.data, console)
    folder.add(grid.runs(recipe(arguments)), data)
    failed = run_sweep(folder, data, workers=arguments.workers, console=console)
    if any(run.is_finished for run in folder.runs()):
        write_report(Collection(folder, data), console=console)
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}", soft_wrap=True, markup=False)
    return 1 if failed else 0
