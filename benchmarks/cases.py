"""The finished benchmarks of a run: a file that is whole at any time, a line of JSON for each.

pytest-benchmark writes at its end only: a run that was cut off would leave nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

STATISTICS = ("median", "q1", "q3", "rounds")


def start_file(path: Path) -> None:
    """Create `path`, without what an earlier run left in it.

    Raises:
        OSError: it cannot be written; better before the first benchmark than behind it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def append_case(path: Path, benchmark: BenchmarkFixture) -> None:
    """Append a benchmark that has run: its name, what it says of itself, and its times."""
    stats = {name: getattr(benchmark.stats.stats, name) for name in STATISTICS}
    case = {"fullname": benchmark.fullname, "extra_info": benchmark.extra_info, "stats": stats}
    # Unbuffered: a line is written by one call, so a process that is killed leaves whole ones.
    with open(path, "ab", buffering=0) as file:
        file.write(f"{json.dumps(case)}\n".encode())


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Return the cases of a file in the order of the run.

    Raises:
        SystemExit: the file cannot be read, or holds no case.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise SystemExit(f"report: cannot read {path}: {error.strerror}") from error
    # A file copied while it was written, or from a full disk, may end within a line.
    cases = [json.loads(line) for line in lines if line.endswith("\n")]
    if not cases:
        raise SystemExit(f"report: {path} holds no finished benchmark; read what pytest printed")
    return cases
