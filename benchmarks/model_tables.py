"""Tables and plot of bench_model.py on a CPU."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Results
from stage_tables import (
    CLIP_S,
    STAGE_MACS,
    draw_stages,
    head,
    megabyte_cells,
    peak_rate,
    rate_cells,
    ratio_cells,
    time_cells,
)

PLOT = "time of the stages of a clip"
BASELINES = ("eager", "default malloc", "folded", "compiled", "bfloat16")
WITH_MEMORY = ("sparse_aasist", "eager")


def tables(results: Results) -> list[str]:
    return [*_scoring(results), "", *_training(results), "", *_stages(results)]


def _scoring(results: Results) -> list[str]:
    title = "Scoring clips of 4.04 s, float32: milliseconds, clips per second, seconds per second "
    title += "of audio (real-time factor), and how many times that the others take."
    columns = ["threads", "batch", "ms", "spread", "clips/s", "real-time factor"]
    lines = head(title, [*columns, *BASELINES, "MB", "eager MB"])
    for name, threads in (("model", "all"), ("one core", "1")):
        for (batch,) in results.sizes(name):
            key = (name, "forward", (batch,))
            ours = results.time(key, "sparse_aasist")
            cells = [threads, str(batch), *time_cells(results, key, digits=4)]
            cells += [f"{1e6 * batch / ours:.3g}", f"{ours / 1e6 / batch / CLIP_S:.4f}"]
            cells += ratio_cells(results, key, BASELINES)
            cells += megabyte_cells(results, key, WITH_MEMORY)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _training(results: Results) -> list[str]:
    baselines = ("eager", "default malloc", "bfloat16")
    title = "A training step, forward and backward, without the optimiser:"
    lines = head(title, ["batch", "ms", "spread", *baselines, "MB", "eager MB"])
    for (batch,) in results.sizes("training"):
        key = ("training", "both", (batch,))
        cells = [str(batch), *time_cells(results, key, digits=4)]
        cells += ratio_cells(results, key, baselines)
        cells += megabyte_cells(results, key, WITH_MEMORY)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(results: Results) -> list[str]:
    size, peak = peak_rate(results)
    title = "The stages; GMAC/s counts the multiplications of direct convolution, and is compared "
    title += f"with those of a product of matrices of {size}, {peak / 1e3:.0f} GMAC/s: Winograd's "
    title += "algorithm needs half of them."
    columns = ["batch", "stage", "ms", "spread", "eager", "folded", "GMAC/s", "of matrices"]
    lines = head(title, columns)
    for (batch,) in results.sizes("front_end"):
        for stage in STAGE_MACS:
            key = (stage, "forward", (batch,))
            cells = [str(batch), stage, *time_cells(results, key)]
            cells += ratio_cells(results, key, ("eager", "folded"))
            cells += rate_cells(results, key, peak)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot the time of every stage for one clip, ours and PyTorch's."""
    providers = {
        "compiled kernels": "sparse_aasist",
        "folded, channels last": "folded",
        "eager": "eager",
    }
    return draw_stages(results, providers, STAGE_MACS, clips=1)
