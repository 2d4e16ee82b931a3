"""Turn what `pytest --results` has written into results/*.csv and the tables of docs/benchmarks.md.

    python benchmarks/report.py RUN.jsonl ... "COMMAND THAT MADE THEM"

A run may have been cut off. Several are parts of one; what is in two of them is taken from the
later. Without arguments only the document is made again, from the results that are there.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import analysis_tables
import graph_tables
import model_cuda_tables
import model_tables
import topk_tables
from cases import read_cases
from results import COLUMNS, SIZES, Results, Row

from sparse_aasist.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
SUITES = {
    "topk": topk_tables,
    "graph": graph_tables,
    "model_cpu": model_tables,
    "model_cpu_avx2": model_tables,
    "model_cuda": model_cuda_tables,
    "analysis": analysis_tables,
}
"""Tables by the name of the results, or by the suite where those of all devices look alike."""
ORIGIN = ("device", "torch", "commit")
METRICS = {"bytes": "bytes", "peak_bytes": "bytes", "launches": "kernels", "error": "of the norm"}


def main(arguments: list[str]) -> int:
    """Write the results of runs, if any are named, and the document."""
    if len(arguments) == 1:
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        *runs, command = arguments
        write_results([case for run in runs for case in read_cases(Path(run))], command)
    write_document()
    return 0


def write_results(cases: Iterable[dict[str, Any]], command: str) -> None:
    """Write one CSV per suite, kind of device and limit to it; new runs replace the old one.

    Raises:
        SystemExit: parts of a suite are of several devices, versions of torch or commits.
    """
    files: dict[str, list[Row]] = {}
    for case in {case["fullname"]: case for case in cases}.values():
        suite = Path(case["fullname"].split("::")[0]).stem.removeprefix("bench_")
        info = case["extra_info"]
        parts = [part for part in (suite, info["kind"], info.get("isa")) if part]
        rows = files.setdefault("_".join(parts), [])
        rows += rows_of_case(case, command)
    for name, rows in files.items():
        if len(origins := {tuple(row[column] for column in ORIGIN) for row in rows}) > 1:
            found = "; ".join(", ".join(origin) for origin in sorted(origins))
            raise SystemExit(f"report: {name} is of {found}: give runs of one only")
    for name, rows in files.items():
        with atomic_path(RESULTS / f"{name}.csv") as partial, open(partial, "w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def rows_of_case(case: dict[str, Any], command: str) -> list[Row]:
    """Return the rows of a benchmark: its time, and each metric that it has."""
    info, stats = case["extra_info"], case["stats"]
    name = case["fullname"].split("::")[1].split("[")[0].removeprefix("bench_")
    known = {column: str(info[column]) for column in COLUMNS if column in info}
    row = dict.fromkeys(SIZES, "") | {"name": name, "command": command} | known
    median, q25, q75 = (f"{1e6 * stats[name]:.4g}" for name in ("median", "q1", "q3"))
    time = {"metric": "time", "unit": "us", "n": str(stats["rounds"])}
    rows = [row | time | {"median": median, "q25": q25, "q75": q75}]
    for metric, unit in METRICS.items():
        if metric in info:
            found = info[metric]
            text = f"{found:.2g}" if isinstance(found, float) else str(found)
            value = dict.fromkeys(("median", "q25", "q75"), text)
            rows.append(row | value | {"metric": metric, "unit": unit, "n": "1"})
    return rows


def write_document() -> None:
    """Put tables and plots of all results between the marks of docs/benchmarks.md."""
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    parts = [section(path) for path in sorted(RESULTS.glob("*.csv"))]
    write_text(DOCUMENT, "\n\n".join([head + BEGIN, *parts, END + tail]))


def section(path: Path) -> str:
    """Return the tables of one results file, and draw its plot."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    results = Results(rows)
    suite = SUITES.get(path.stem) or SUITES[path.stem.split("_")[0]]
    plot = DOCUMENT.with_name(f"benchmarks_{path.stem}.png")
    figure = suite.draw(results)
    with atomic_path(plot) as partial:
        figure.savefig(partial, dpi=110)
    first = rows[0]
    is_cpu = bool(first["threads"])
    how = f"{first['threads']} threads, {first['simd']}" if is_cpu else f"driver {first['driver']}"
    lines = [
        f"### {path.stem.replace('_', ', ')}",
        "",
        f"{first['device']}, {how}; torch {first['torch']}, {first['compiler']}; commit "
        f"`{first['commit']}`, {first['date']}; `{first['command']}`; all figures in "
        f"`benchmarks/results/{path.name}`.",
        "",
        f"![{suite.PLOT}]({plot.name})",
        "",
        *suite.tables(results),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
