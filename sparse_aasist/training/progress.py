"""The progress bars of training: the steps of an epoch, and the scoring of dev after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)

from sparse_aasist.training.state import TrainingState


@contextmanager
def epoch_progress(
    console: Console, state: TrainingState, steps: int, visible: bool
) -> Iterator[Callable[[float], None]]:
    """Show a bar for the epoch of `state`; yield a function to call with the loss of a step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not visible) as progress:
        task = progress.add_task(
            f"epoch {state.epoch + 1}/{state.config.epochs}",
            total=steps,
            completed=state.step,
            loss="-",
        )
        yield lambda loss: progress.update(task, advance=1, loss=f"{loss:.4f}")


def scoring_progress(console: Console, visible: bool) -> Callable[[Iterable], Iterable]:
    """Return a function that wraps the batches of a scoring loader in a bar."""
    return lambda loader: track(
        loader, "scoring dev", console=console, transient=True, disable=not visible
    )
