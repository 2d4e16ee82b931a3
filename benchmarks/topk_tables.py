"""Tables and plot of bench_topk.py."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure
from results import Key, Results, microseconds

PLOT = "times ours against PyTorch's"
EAGER = ("unsorted", "sorted")
MODES = ("forward", "backward", "both")


def tables(results: Results) -> list[str]:
    lines = _activation_table(results)
    # The last of the run.
    return [*lines, "", *_linear_table(results)] if results.sizes("topk_linear") else lines


def _activation_table(results: Results) -> list[str]:
    name = "topk_activation"
    lines = [
        "`topk_activation`, float32: median in microseconds, how many times that the best eager "
        "and the compiled PyTorch take, and the same for peak memory.",
        "",
        "| rows | D | k | forward | eager / compiled | backward | eager | both "
        "| eager / compiled | spread | GB/s | of copy | memory, eager |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for sizes in results.complete(name, *MODES):
        rows, dim, k = sizes
        cells = [f"{rows:,}", f"{dim:,}", str(k)]
        for mode in MODES:
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            providers = (EAGER,) if mode == "backward" else (EAGER, ("compiled",))
            cells += [microseconds(ours), _ratios(results, key, providers)]
        both, copy = (name, "both", sizes), ("copy", "forward", (rows, dim, 0))
        rate = results.get(both, "sparse_aasist", "bytes") / results.time(both, "sparse_aasist")
        copy_time = results.time_or_none(copy, "copy")
        memory = results.get_or_none(both, "unsorted", "peak_bytes")
        cells += [f"{100 * results.spread(both, 'sparse_aasist'):.0f} %", f"{rate / 1e3:.1f}"]
        if copy_time is None:
            cells.append("-")
        else:
            copy_rate = results.get(copy, "copy", "bytes") / copy_time
            cells.append(f"{100 * rate / copy_rate:.0f} %")
        if memory is None:
            cells.append("-")
        else:
            cells.append(f"{memory / results.get(both, 'sparse_aasist', 'peak_bytes'):.1f}x")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _linear_table(results: Results) -> list[str]:
    name = "topk_linear"
    lines = [
        "`topk_linear` with 2 classes, against topk + scatter + linear:",
        "",
        "| rows | D | k | forward | eager / compiled | both | eager / compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for sizes in results.complete(name, "forward", "both"):
        cells = [f"{size:,}" for size in sizes]
        for mode in ("forward", "both"):
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            cells += [microseconds(ours), _ratios(results, key, (EAGER, ("compiled",)))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratios(results: Results, key: Key, groups: Iterable[Iterable[str]]) -> str:
    """Return how many times ours the fastest of each group takes; "-" if none was measured."""
    ours = results.time(key, "sparse_aasist")
    times = [results.best_time(key, group) for group in groups]
    return " / ".join("-" if time is None else f"{time / ours:.1f}x" for time in times)


def draw(results: Results) -> Figure:
    """Plot how many times ours eager and compiled PyTorch take, forward and backward."""
    name = "topk_activation"
    sizes = results.complete(name, "both")
    all_rows = sorted({rows for rows, _, _ in sizes})
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(all_rows), sharey=True, squeeze=False)[0]
    for axis, rows in zip(axes, all_rows, strict=True):
        for color, k in enumerate(sorted({k for _, _, k in sizes})):
            keys = [(name, "both", size) for size in sizes if (size[0], size[2]) == (rows, k)]
            for provider, style in (("eager", "o-"), ("compiled", "x--")):
                names = EAGER if provider == "eager" else ("compiled",)
                times = {key: results.best_time(key, names) for key in keys}
                measured = [key for key in keys if times[key] is not None]
                dims = [key[2][1] for key in measured]
                ratios = [times[key] / results.time(key, "sparse_aasist") for key in measured]
                axis.plot(dims, ratios, style, color=f"C{color}", label=f"{provider}, k = {k}")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="D", title=f"{rows:,} rows")
        axis.set_xticks(sorted({dim for _, dim, _ in sizes}), minor=False)
        axis.set_xticklabels([f"{dim:,}" for dim in sorted({d for _, d, _ in sizes})], rotation=45)
        axis.minorticks_off()
        axis.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[0].set_ylabel("time of PyTorch / ours\nforward + backward")
    axes[-1].legend(fontsize="small")
    return figure
