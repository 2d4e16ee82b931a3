"""Runs the planned runs of a sweep: one process per run, several at a time, on several machines.

Work is shared by file locks alone (filelock, which torch depends on anyway): whoever holds the lock
of a run works on it, and the lock goes with its process. So the same command on another machine
that sees the folder joins in, and after a crash the next command continues what was begun. Job
queues would need a server or a scheduler, which neither a laptop nor every cluster has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from sparse_aasist.sweep.folder import SweepFolder, SweepRun
from sparse_aasist.sweep.progress import sweep_progress
from sparse_aasist.sweep.worker import INTERRUPTED, TAKEN

POLL_SECONDS = 1.0
# Besides Ctrl-C: a job manager, a closed terminal.
_STOPS = (signal.SIGTERM, signal.SIGHUP)


def run_sweep(
    folder: SweepFolder,
    data_dir: str | os.PathLike[str],
    *,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, str]:
    """Work until every planned run is finished, here or elsewhere, or has failed here.

    A run that fails does not stop the others; the next call tries it again.

    Args:
        folder: holds the plan.
        data_dir: where its data are on this machine.
        workers: runs at a time; by default one per GPU, or one.
        console: where progress is shown.

    Returns:
        For each failed run the last line of its log.

    Raises:
        KeyboardInterrupt: a signal (SIGINT, SIGTERM, SIGHUP) asked to stop; all runs have saved
            their state.
    """
    workers = workers or max(1, torch.cuda.device_count())
    runs = folder.runs()
    failed: dict[str, str] = {}
    active: dict[int, tuple[SweepRun, subprocess.Popen]] = {}
    with _terminate_like_interrupt(), sweep_progress(console or Console(), runs) as show:
        try:
            while True:
                for slot in range(workers):
                    if slot not in active and (run := _next(runs, active, failed)) is not None:
                        active[slot] = run, _start(folder, run, Path(data_dir), slot, workers)
                done = all(run.is_finished or run.name in failed for run in runs)
                show({run.name for run, _ in active.values()}, failed)
                if done and not active:
                    return failed
                time.sleep(POLL_SECONDS)
                _collect(active, failed)
        finally:
            # Whatever ends this process early, its runs save their state and end too.
            for _, process in active.values():
                process.send_signal(signal.SIGTERM)
            for _, process in active.values():
                process.wait()


def _next(
    runs: list[SweepRun], active: dict[int, tuple[SweepRun, subprocess.Popen]], failed: dict
) -> SweepRun | None:
    own = {run.name for run, _ in active.values()}
    for run in runs:
        is_open = run.name not in own and run.name not in failed and not run.is_finished
        if is_open and not run.is_locked:
            return run
    return None


def _start(
    folder: SweepFolder, run: SweepRun, data_dir: Path, slot: int, workers: int
) -> subprocess.Popen:
    environment = dict(os.environ)
    if torch.cuda.device_count():
        environment["CUDA_VISIBLE_DEVICES"] = _visible_device(slot)
    else:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "sparse_aasist.sweep.worker"]
    command += [str(folder.path), run.name, str(data_dir)]
    with open(run.log, "a") as log:
        # In a session of its own a run hears of Ctrl-C from us alone, and once.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _visible_device(slot: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names[slot % len(names)]


def _collect(active: dict[int, tuple[SweepRun, subprocess.Popen]], failed: dict[str, str]) -> None:
    for slot, (run, process) in list(active.items()):
        status = process.poll()
        if status is None:
            continue
        del active[slot]
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status < 0:
            failed[run.name] = f"killed by signal {-status} (out of memory?); see {run.log}"
        elif status not in (0, TAKEN):
            failed[run.name] = _last_line(run.log) or f"ended with status {status}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
