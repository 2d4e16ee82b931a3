"""Tables and plot of bench_graph.py."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Results, microseconds

PLOT = "time and peak memory of graph_attention against the number of nodes"
TITLES = {
    "graph_attention": "`graph_attention`, width 64, float32: median in microseconds, and how many "
    "times that eager and compiled PyTorch take; memory is the peak of forward and backward.",
    "graph_pool": "`graph_pool`, width 64, half of the nodes kept:",
    "graph_half": "The graph half of AASIST, from the encoder's output for 4 seconds to logits; "
    "both: forward and backward in training mode.",
}


def tables(results: Results) -> list[str]:
    lines: list[str] = []
    for name, title in TITLES.items():
        lines += ["", *_table(results, name, title)] if lines else _table(results, name, title)
    return lines


def _table(results: Results, name: str, title: str) -> list[str]:
    header = ["batch", "N", "forward", "eager / compiled", "both", "eager / compiled", "spread"]
    header += ["MB", "eager MB"]
    counted = results.has("launches")
    if counted:
        header += ["launches, forward", "eager"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for sizes in results.sizes(name):
        cells = [str(size) for size in sizes]
        for mode in ("forward", "both"):
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            ratios = [results.time(key, other) / ours for other in ("eager", "compiled")]
            cells += [microseconds(ours), " / ".join(f"{ratio:.1f}x" for ratio in ratios)]
        both, forward = (name, "both", sizes), (name, "forward", sizes)
        cells.append(f"{100 * results.spread(both, 'sparse_aasist'):.0f} %")
        providers = ("sparse_aasist", "eager")
        cells += [f"{results.get(both, p, 'peak_bytes') / 1e6:,.3g}" for p in providers]
        if counted:
            cells += [f"{results.get(forward, p, 'launches'):.0f}" for p in providers]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot time and peak memory of forward and backward against N, for the middle batch."""
    name = "graph_attention"
    sizes = results.sizes(name)
    batch = sorted({batch for batch, _ in sizes})[1]
    nodes = [n for b, n in sizes if b == batch]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = {"time": "milliseconds", "peak_bytes": "peak memory, MB"}
    scales = {"time": 1e-3, "peak_bytes": 1e-6}
    for axis, metric in zip(axes, labels, strict=True):
        for provider in ("sparse_aasist", "eager", "compiled"):
            values = [
                scales[metric] * results.get((name, "both", (batch, n)), provider, metric)
                for n in nodes
            ]
            axis.plot(nodes, values, "o-", label=provider)
        axis.set(xscale="log", yscale="log", xlabel="nodes", ylabel=labels[metric])
        axis.set_xticks(nodes, [str(n) for n in nodes], rotation=45)
        axis.minorticks_off()
    figure.suptitle(f"forward + backward, batch {batch}")
    axes[0].legend(fontsize="small")
    return figure
