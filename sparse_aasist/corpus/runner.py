"""Run the stages of a build in worker processes, with one progress bar per stage."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sparse_aasist.errors import CorpusError

MAX_WORKERS = 2
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Runner:
    """Workers, progress bars and warnings of one build; a context manager.

    Args:
        console: where bars and messages go.
        pool: makes the executor; processes by default.
    """

    def __init__(self, console: Console, pool: Callable[[], Executor] | None = None) -> None:
        self.console = console
        self.warnings: list[str] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._pool = (pool or _processes)()

    def __enter__(self) -> Runner:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.console.print("stopping after the clips in hand; build again to continue")
        # After an error what has not begun shall not: the next build continues from here.
        self._pool.shutdown(cancel_futures=error is not None)
        self.progress.stop()

    def warn(self, message: str) -> None:
        """Print a warning and keep it for the manifest."""
        self.warnings.append(message)
        self.console.print(message, style="yellow", markup=False)

    def run(
        self, title: str, function: Callable[..., Any], tasks: Sequence[tuple[str, tuple, int]]
    ) -> dict[str, Any]:
        """Run tasks in the workers; one that fails warns and is left out of the result.

        Args:
            title: of the progress bar.
            function: module-level function to call.
            tasks: (name, arguments, weight in the progress bar).

        Returns:
            name -> what the function returned.

        Raises:
            CorpusError: a worker process died.
            OSError: the disk is full or not writable.
        """
        bar = self.progress.add_task(title, total=sum(weight for _, _, weight in tasks))
        futures = {
            self._pool.submit(function, *arguments): (name, weight)
            for name, arguments, weight in tasks
        }
        done: dict[str, Any] = {}
        for future in as_completed(futures):
            name, weight = futures[future]
            self.progress.advance(bar, weight)
            error = future.exception()
            if error is None:
                done[name] = future.result()
            else:
                _raise_if_fatal(error)
                self.warn(f"{title}, {name}: {type(error).__name__}: {error}")
        return done


def _raise_if_fatal(error: BaseException) -> None:
    """Raise errors that no smaller corpus can cure: a dead worker, a full or unwritable disk."""
    if isinstance(error, BrokenExecutor):
        raise CorpusError(
            "a worker process was killed, perhaps for want of memory; build again, finished "
            "clips are kept"
        ) from error
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error


def _processes() -> ProcessPoolExecutor:
    count = min(MAX_WORKERS, os.cpu_count() or 1)
    # spawn: the calling process may hold torch threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    """Let Ctrl-C reach the main process only: it ends the workers between two jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
