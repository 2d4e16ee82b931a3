"""`sparse-aasist compare`: do two systems differ on the same trials? Reads score files only."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "test whether two systems differ, from their score files, paired over speakers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--a", type=Path, nargs="+", required=True, metavar="TSV", help="system A, a file per run")
    add("--b", type=Path, nargs="+", required=True, metavar="TSV", help="system B, a file per run")
    add("--data", type=Path, metavar="DIR", help="default: the small real corpus")
    add("--split", choices=("dev", "eval"), default="eval", help="what was scored (eval)")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print a table."""
    from rich.console import Console
    from rich.table import Table

    from sparse_aasist.cli.data import corpus_or
    from sparse_aasist.data.protocol import open_split
    from sparse_aasist.evaluation import compare_files

    console = Console()
    trials = open_split(corpus_or(arguments.data, console), arguments.split).trials
    found = compare_files(trials, arguments.a, arguments.b)
    table = Table(box=None, pad_edge=False)
    for header in ("metric", "A", "B", "A - B", "95 %", "p"):
        table.add_column(header, justify="left" if header == "metric" else "right")
    rows = (
        ("EER %", found.eer, 100.0, 2),
        ("minDCF", found.min_dcf, 1.0, 3),
        ("actDCF", found.act_dcf, 1.0, 3),
        ("Cllr bits", found.cllr, 1.0, 3),
    )
    for name, row, factor, digits in rows:
        low, high = (f"{factor * bound:.{digits}f}" for bound in row.interval)
        values = [f"{factor * value:.{digits}f}" for value in (row.a, row.b, row.difference)]
        table.add_row(name, *values, f"[{low}, {high}]", f"{row.p_value:.3f}")
    console.print(table, markup=False)
    console.print(
        f"Runs: {found.n_runs_a} against {found.n_runs_b}. Intervals: paired bootstrap over "
        f"{found.n_speakers} speakers and the runs, {found.resamples} resamples.",
        style="dim",
        highlight=False,
    )
    return 0
