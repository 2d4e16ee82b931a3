"""Tables and plot of bench_topk.py."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Results, microseconds

PLOT = "times ours against PyTorch's"
EAGER = ("unsorted", "sorted")


def tables(results: Results) -> list[str]:
    return [*_activation_table(results), "", *_linear_table(results)]


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
    for sizes in results.sizes(name):
        rows, dim, k = sizes
        cells = [f"{rows:,}", f"{dim:,}", str(k)]
        for mode in ("forward", "backward", "both"):
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            ratios = [results.best_time(key, EAGER) / ours]
            if mode != "backward":
                ratios.append(results.time(key, "compiled") / ours)
            cells += [microseconds(ours), " / ".join(f"{ratio:.1f}x" for ratio in ratios)]
        both, copy = (name, "both", sizes), ("copy", "forward", (rows, dim, 0))
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


def _linear_table(results: Results) -> list[str]:
    name = "topk_linear"
    lines = [
        "`topk_linear` with 2 classes, against topk + scatter + linear:",
        "",
        "| rows | D | k | forward | eager / compiled | both | eager / compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for sizes in results.sizes(name):
        cells = [f"{size:,}" for size in sizes]
        for mode in ("forward", "both"):
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            ratios = (results.best_time(key, EAGER) / ours, results.time(key, "compiled") / ours)
            cells += [microseconds(ours), " / ".join(f"{ratio:.1f}x" for ratio in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot how many times ours eager and compiled PyTorch take, forward and backward."""
    name = "topk_activation"
    sizes = results.sizes(name)
    all_rows = sorted({rows for rows, _, _ in sizes})
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(all_rows), sharey=True, squeeze=False)[0]
    for axis, rows in zip(axes, all_rows, strict=True):
        for color, k in enumerate(sorted({k for _, _, k in sizes})):
            dims = [dim for r, dim, other in sizes if r == rows and other == k]
            keys = [(name, "both", (rows, dim, k)) for dim in dims]
            ours = [results.time(key, "sparse_aasist") for key in keys]
            for provider, style in (("eager", "o-"), ("compiled", "x--")):
                names = EAGER if provider == "eager" else ("compiled",)
                ratios = [
                    results.best_time(key, names) / own for key, own in zip(keys, ours, strict=True)
                ]
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
