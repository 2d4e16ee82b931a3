"""Progress of a sweep over all of its epochs, whoever trains them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sparse_aasist.sweep.folder import SweepRun


@contextmanager
def sweep_progress(
    console: Console, runs: list[SweepRun]
) -> Iterator[Callable[[Collection[str], Mapping[str, str]], None]]:
    """Show a bar of all epochs and one per active run; yield a function that updates them.

    The function takes the names of the runs that this process works on, and the failed ones.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    announced = {run.name for run in runs if run.is_finished}
    with Progress(*columns, console=console) as progress:
        total = sum(run.config.epochs for run in runs)
        whole = progress.add_task("epochs of the sweep", total=total)
        bars: dict[str, int] = {}

        def show(active: Collection[str], failed: Mapping[str, str]) -> None:
            done = {run.name: run.epochs_done() for run in runs}
            progress.update(whole, completed=sum(done.values()))
            for run in runs:
                if run.name in active and run.name not in bars:
                    bars[run.name] = progress.add_task(run.name, total=run.config.epochs)
                if run.name in bars:
                    progress.update(bars[run.name], completed=done[run.name])
                    if run.name not in active:
                        progress.remove_task(bars.pop(run.name))
                if run.name in announced or not (run.is_finished or run.name in failed):
                    continue
                announced.add(run.name)
                text = f"failed {run.name}: {failed.get(run.name)}"
                if run.is_finished:
                    count = len(announced - failed.keys())
                    text = f"finished {run.name} ({count} of {len(runs)})"
                progress.console.print(text, markup=False)

        yield show
