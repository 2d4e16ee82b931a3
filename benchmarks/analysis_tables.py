"""Tables and plot of bench_analysis.py."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Key, Results

PLOT = "time of the analysis by width"
NAMES = {
    "information": ("information of dimensions on 8 classes", "scikit-learn"),
    "disentangle": (
        "information with a null of 100 permutations, and all scores",
        "permuted labels",
    ),
    "intervene": ("EER of 7 attacks, each dimension silenced, then doubled", "compute_metrics"),
    "bootstrap": ("intervals of four metrics over 737 speakers", "trials drawn"),
    "compare": ("paired difference of two systems", ""),
    "conditions": ("EER of 16 attacks by 12 codecs", ""),
}


def tables(results: Results) -> list[str]:
    title = "Analysis of embeddings at the size of ASVspoof5's dev set and evaluation at that of "
    title += "its eval set; the straightforward way, where it takes less than a minute, does the "
    title += "same work by a loop over dimensions, permutations or resamples."
    header = ["what", "trials", "D", "resamples", "s", "spread", "the straightforward way", "MB"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, (what, other) in NAMES.items():
        for sizes in results.sizes(name):
            key: Key = (name, "forward", sizes)
            ours = results.time(key, "sparse_aasist")
            theirs = results.time_or_none(key, other)
            rest = [str(size) for size in sizes[1:]] or [""]
            dims, resamples = ("", rest[0]) if name in ("bootstrap", "compare") else (rest[0], "")
            cells = [what, f"{sizes[0]:,}", dims, resamples, f"{ours / 1e6:.3g}"]
            cells.append(f"{100 * results.spread(key, 'sparse_aasist'):.0f} %")
            cells.append("" if theirs is None else f"{other}: {theirs / ours:.0f}x")
            cells.append(f"{results.get(key, 'sparse_aasist', 'peak_bytes') / 1e6:,.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot the time of information with null, and of the intervention, against D."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    for name in ("disentangle", "intervene"):
        sizes = results.sizes(name)
        times = [results.time((name, "forward", size), "sparse_aasist") / 1e6 for size in sizes]
        axis.plot([size[1] for size in sizes], times, "o-", label=NAMES[name][0])
    axis.set(xlabel="D", ylabel="seconds for 140,950 trials", ylim=(0, None))
    axis.legend(fontsize="small")
    return figure
