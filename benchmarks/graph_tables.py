"""Tables and plot of bench_graph.py."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Results, microseconds

PLOT = "time and peak memory of graph_attention against the number of nodes"
MODES = ("forward", "both")
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
        if results.complete(name, *MODES):
            lines += ["", *_table(results, name, title)] if lines else _table(results, name, title)
    return lines


def _table(results: Results, name: str, title: str) -> list[str]:
    header = ["batch", "N", "forward", "eager / compiled", "both", "eager / compiled", "spread"]
    header += ["MB", "eager MB"]
    counted = results.has("launches")
    if counted:
        header += ["launches, forward / both", "eager"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for sizes in results.complete(name, *MODES):
        cells = [str(size) for size in sizes]
        for mode in MODES:
            key = (name, mode, sizes)
            ours = results.time(key, "sparse_aasist")
            ratios = [results.ratio(key, other, ours) or "-" for other in ("eager", "compiled")]
            cells += [microseconds(ours), " / ".join(ratios)]
        both = (name, "both", sizes)
        cells.append(f"{100 * results.spread(both, 'sparse_aasist'):.0f} %")
        providers = ("sparse_aasist", "eager")
        peaks = [results.get_or_none(both, p, "peak_bytes") for p in providers]
        cells += ["-" if peak is None else f"{peak / 1e6:,.3g}" for peak in peaks]
        if counted:
            for provider in providers:
                keys = [(name, mode, sizes) for mode in MODES]
                counts = [results.get_or_none(key, provider, "launches") for key in keys]
                cells.append(" / ".join("-" if n is None else f"{n:.0f}" for n in counts))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot time and peak memory of forward and backward against N, for the middle batch."""
    name = "graph_attention"
    sizes = results.sizes(name)
    batches = sorted({batch for batch, _ in sizes})
    batch = batches[len(batches) // 2]
    nodes = [n for b, n in sizes if b == batch]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = {"time": "milliseconds", "peak_bytes": "peak memory, MB"}
    scales = {"time": 1e-3, "peak_bytes": 1e-6}
    for axis, metric in zip(axes, labels, strict=True):
        for provider in ("sparse_aasist", "eager", "compiled"):
            found = {
                n: results.get_or_none((name, "both", (batch, n)), provider, metric) for n in nodes
            }
            values = {n: scales[metric] * value for n, value in found.items() if value is not None}
            axis.plot(list(values), list(values.values()), "o-", label=provider)
        axis.set(xscale="log", yscale="log", xlabel="nodes", ylabel=labels[metric])
        axis.set_xticks(nodes, [str(n) for n in nodes], rotation=45)
        axis.minorticks_off()
    figure.suptitle(f"forward + backward, batch {batch}")
    axes[0].legend(fontsize="small")
    return figure
