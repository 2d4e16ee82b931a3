"""The gist of a report for the terminal: the grid, what is missing, and the verdicts counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sparse_aasist.report.facts import Facts
from sparse_aasist.report.text import with_interval
from sparse_aasist.sweep.verdicts import FAILS, HOLDS, UNDECIDED

if TYPE_CHECKING:
    from rich.console import Console


def print_gist(facts: Facts, console: Console) -> None:
    """Print EER and minDCF of every configuration and split, and the verdicts."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("configuration", "seeds"):
        table.add_column(header, no_wrap=True)
    for split in facts.splits:
        table.add_column(f"{split} EER %\n[95 %]", justify="right")
        table.add_column("minDCF", justify="right")
    for configuration in facts.collection.configurations:
        cells = [configuration.name, str(len(configuration.runs))]
        for split in facts.splits:
            row = facts.of(configuration, split)
            bounds = row["eer"], row["eer_low"], row["eer_high"]
            cells += [with_interval(*bounds, 100, 1), f"{row['min_dcf']:.3f}"]
        table.add_row(*cells)
    console.print(table)
    for name, seeds in facts.collection.missing.items():
        numbers = ", ".join(map(str, seeds))
        console.print(f"not finished: {name}, seeds {numbers}", markup=False, highlight=False)
    counts: dict[str, Counter[str]] = {}
    for verdict in facts.verdicts:
        counts.setdefault(verdict.claim, Counter())[verdict.outcome] += 1
    for claim, count in counts.items():
        outcomes = ", ".join(f"{name} {count[name]}" for name in (HOLDS, FAILS, UNDECIDED))
        console.print(f"{claim}: {outcomes}", markup=False, highlight=False, soft_wrap=True)
