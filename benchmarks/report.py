"""Turn the JSON of pytest-benchmark into results/*.csv and the tables of docs/benchmarks.md.

    python benchmarks/report.py RUN.json "COMMAND THAT MADE IT"

Without arguments only the document is made again, from the results that are there.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sparse_aasist.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
COLUMNS = (
    *(
        "name",
        "provider",
        "mode",
        "rows",
        "dim",
        "k",
        "metric",
        "unit",
        "median",
        "q25",
        "q75",
        "n",
    ),
    *("device", "driver", "torch", "compiler", "simd", "threads", "commit", "date", "command"),
)

Row = dict[str, str]
Key = tuple[str, str, int, int, int]
"""name, mode, rows, dim, k"""


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
        row = {"name": benchmark["name"].split("[")[0].removeprefix("bench_")}
        # On a GPU the benchmark itself names the device.
        row |= shared | {column: str(info[column]) for column in COLUMNS if column in info}
        rows = files.setdefault(f"{suite}_{info['kind']}", [])
        microseconds = {name: f"{1e6 * stats[name]:.4g}" for name in ("median", "q1", "q3")}
        rows.append(
            row
            | {"metric": "time", "unit": "us", "n": str(stats["rounds"])}
            | {"median": microseconds["median"]}
            | {"q25": microseconds["q1"], "q75": microseconds["q3"]}
        )
        for metric in ("bytes", "peak_bytes"):
            if metric in info:
                value = str(info[metric])
                values = {"median": value, "q25": value, "q75": value}
                rows.append(row | values | {"metric": metric, "unit": "bytes", "n": "1"})
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
    plot = DOCUMENT.with_name(f"benchmarks_{path.stem}.png")
    draw(results, plot)
    first = rows[0]
    threads = f", {first['threads']} threads, {first['simd']}" if first["threads"] else ""
    lines = [
        f"### {path.stem.replace('_', ', ')}",
        "",
        f"{first['device']}{threads}; torch {first['torch']}, {first['compiler']}; commit "
        f"`{first['commit']}`, {first['date']}; `{first['command']}`; all figures in "
        f"`benchmarks/results/{path.name}`.",
        "",
        f"![times ours against PyTorch's]({plot.name})",
        "",
        *activation_table(results),
        "",
        *linear_table(results),
    ]
    return "\n".join(lines)


class Results:
    """The figures of one file, by what was run, who ran it, and the metric."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._medians: dict[tuple[Key, str, str], float] = {}
        self._spreads: dict[tuple[Key, str], float] = {}
        for row in rows:
            key = (row["name"], row["mode"], *(int(row[n]) for n in ("rows", "dim", "k")))
            median = float(row["median"])
            self._medians[key, row["provider"], row["metric"]] = median
            if row["metric"] == "time":
                half = (float(row["q75"]) - float(row["q25"])) / 2
                self._spreads[key, row["provider"]] = half / median

    def time(self, key: Key, provider: str) -> float:
        """Return the median in microseconds."""
        return self.get(key, provider, "time")

    def spread(self, key: Key, provider: str) -> float:
        """Return half the distance of the quartiles, as a fraction of the median."""
        return self._spreads[key, provider]

    def get(self, key: Key, provider: str, metric: str) -> float:
        """Return the median of a metric."""
        if (key, provider, metric) not in self._medians:
            raise SystemExit(f"report: no {metric} of {provider} for {key}: run the whole suite")
        return self._medians[key, provider, metric]

    def eager(self, key: Key) -> float:
        """Return the time of the faster of PyTorch's eager ways."""
        times = [self._medians.get((key, name, "time")) for name in ("unsorted", "sorted")]
        return min(time for time in times if time is not None)

    def sizes(self, name: str) -> list[tuple[int, int, int]]:
        """Return the (rows, dim, k) of a benchmark, in order."""
        keys = {key for key, _, _ in self._medians if key[0] == name}
        return sorted({key[2:] for key in keys})


def activation_table(results: Results) -> list[str]:
    name = "topk_activation"
    lines = [
        "`topk_activation`, float32: median in microseconds, how many times that the best eager "
        "and the compiled PyTorch take, and the same for peak memory.",
        "",
        "| rows | D | k | forward | eager / compiled | backward | eager | both "
        "| eager / compiled | spread | GB/s | of copy | memory, eager |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rows, dim, k in results.sizes(name):
        cells = [f"{rows:,}", f"{dim:,}", str(k)]
        for mode in ("forward", "backward", "both"):
            key = (name, mode, rows, dim, k)
            ours = results.time(key, "sparse_aasist")
            ratios = [results.eager(key) / ours]
            if mode != "backward":
                ratios.append(results.time(key, "compiled") / ours)
            cells += [f"{ours:,.3g}" if ours < 1000 else f"{ours:,.0f}"]
            cells += [" / ".join(f"{ratio:.1f}x" for ratio in ratios)]
        both, copy = (name, "both", rows, dim, k), ("copy", "forward", rows, dim, 0)
        rate = results.get(both, "sparse_aasist", "bytes") / results.time(both, "sparse_aasist")
        copy_rate = results.get(copy, "copy", "bytes") / results.time(copy, "copy")
        memory = [results.get(both, name, "peak_bytes") for name in ("unsorted", "sparse_aasist")]
        cells += [
            f"{100 * results.spread(both, 'sparse_aasist'):.0f} %",
            f"{rate / 1e3:.1f}",
            f"{100 * rate / copy_rate:.0f} %",
            f"{memory[0] / memory[1]:.1f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def linear_table(results: Results) -> list[str]:
    name = "topk_linear"
    lines = [
        "`topk_linear` with 2 classes, against topk + scatter + linear:",
        "",
        "| rows | D | k | forward | eager / compiled | both | eager / compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, dim, k in results.sizes(name):
        cells = [f"{rows:,}", f"{dim:,}", str(k)]
        for mode in ("forward", "both"):
            key = (name, mode, rows, dim, k)
            ours = results.time(key, "sparse_aasist")
            ratios = (results.eager(key) / ours, results.time(key, "compiled") / ours)
            cells += [f"{ours:,.3g}" if ours < 1000 else f"{ours:,.0f}"]
            cells += [" / ".join(f"{ratio:.1f}x" for ratio in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results, path: Path) -> None:
    """Plot how many times ours eager and compiled PyTorch take, forward and backward."""
    name = "topk_activation"
    sizes = results.sizes(name)
    all_rows = sorted({rows for rows, _, _ in sizes})
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(all_rows), sharey=True, squeeze=False)[0]
    for axis, rows in zip(axes, all_rows, strict=True):
        for color, k in enumerate(sorted({k for _, _, k in sizes})):
            dims = [dim for r, dim, other in sizes if r == rows and other == k]
            keys = [(name, "both", rows, dim, k) for dim in dims]
            ours = [results.time(key, "sparse_aasist") for key in keys]
            eager = [results.eager(key) / own for key, own in zip(keys, ours, strict=True)]
            compiled = [
                results.time(key, "compiled") / own for key, own in zip(keys, ours, strict=True)
            ]
            axis.plot(dims, eager, "o-", color=f"C{color}", label=f"eager, k = {k}")
            axis.plot(dims, compiled, "x--", color=f"C{color}", label=f"compiled, k = {k}")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="D", title=f"{rows:,} rows")
        axis.set_xticks(sorted({dim for _, dim, _ in sizes}), minor=False)
        axis.set_xticklabels([f"{dim:,}" for dim in sorted({d for _, d, _ in sizes})], rotation=45)
        axis.minorticks_off()
        axis.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[0].set_ylabel("time of PyTorch / ours\nforward + backward")
    axes[-1].legend(fontsize="small")
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
