"""`sparse-aasist report`: one HTML page and two tables of all finished runs of a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write report.html, results.csv and configurations.csv of a sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("sweep", type=Path, metavar="SWEEP", help="folder of a sweep with finished runs")
    add("--data", type=Path, metavar="DIR", help="default: where the data of the sweep were")


def run(arguments: argparse.Namespace) -> int:
    """Analyse what is not analysed yet, and write."""
    from rich.console import Console

    from sparse_aasist.report import write_report
    from sparse_aasist.sweep.collect import Collection
    from sparse_aasist.sweep.folder import SweepFolder

    write_report(Collection(SweepFolder(arguments.sweep), arguments.data), console=Console())
    return 0
