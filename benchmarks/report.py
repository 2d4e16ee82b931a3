"""Turn the JSON of pytest-benchmark into results/*.csv and the tables of docs/benchmarks.md.

    python benchmarks/report.py RUN.json "COMMAND THAT MADE IT"

Without arguments only the document is made again, from the results that are there.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import analysis_tables
import graph_tables
import model_tables
import topk_tables
from results import COLUMNS, SIZES, Results, Row

from sparse_aasist.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
SUITES = {
    "topk": topk_tables,
    "graph": graph_tables,
    "model": model_tables,
    "analysis": analysis_tables,
}
METRICS = {"bytes": "bytes", "peak_bytes": "bytes", "launches": "kernels"}


def main(arguments: list[str]) -> int:
    """Write the results of a run, if one is named, and the document."""
    if len(arguments) == 2:
        write_results(json.loads(Path(arguments[0]).read_text()), arguments[1])
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 2
    write_document()
    return 0


def write_results(run: dict[str, Any], command: str) -> None:
    """Write one CSV per suite and kind of device; a new run replaces the old one."""
    commit = run["commit_info"]
    shared = {
        "device": run["machine_info"]["cpu"].get("brand_raw", ""),
        "commit": commit["id"][:12] + ("+" if commit["dirty"] else ""),
        "date": run["datetime"][:10],
        "command": command,
    }
    files: dict[str, list[Row]] = {}
    for benchmark in run["benchmarks"]:
        info, stats = benchmark["extra_info"], benchmark["stats"]
        suite = Path(benchmark["fullname"].split("::")[0]).stem.removeprefix("bench_")
        name = benchmark["name"].split("[")[0].removeprefix("bench_")
        # On a GPU the benchmark itself names the device.
        known = {column: str(info[column]) for column in COLUMNS if column in info}
        row = dict.fromkeys(SIZES, "") | {"name": name} | shared | known
        rows = files.setdefault(f"{suite}_{info['kind']}", [])
        microseconds = {name: f"{1e6 * stats[name]:.4g}" for name in ("median", "q1", "q3")}
        rows.append(
            row
            | {"metric": "time", "unit": "us", "n": str(stats["rounds"])}
            | {"median": microseconds["median"]}
            | {"q25": microseconds["q1"], "q75": microseconds["q3"]}
        )
        for metric, unit in METRICS.items():
            if metric in info:
                value = str(info[metric])
                values = {"median": value, "q25": value, "q75": value}
                rows.append(row | values | {"metric": metric, "unit": unit, "n": "1"})
    for name, rows in files.items():
        with atomic_path(RESULTS / f"{name}.csv") as partial, open(partial, "w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


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
    suite = SUITES[path.stem.split("_")[0]]
    plot = DOCUMENT.with_name(f"benchmarks_{path.stem}.png")
    figure = suite.draw(results)
    with atomic_path(plot) as partial:
        figure.savefig(partial, dpi=110)
    first = rows[0]
    threads = f", {first['threads']} threads, {first['simd']}" if first["threads"] else ""
    lines = [
        f"### {path.stem.replace('_', ', ')}",
        "",
        f"{first['device']}{threads}; torch {first['torch']}, {first['compiler']}; commit "
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
