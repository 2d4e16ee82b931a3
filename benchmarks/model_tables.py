"""Tables and plot of bench_model.py on a CPU."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Key, Results
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
OURS = {"float32": "sparse_aasist", "bfloat16": "sparse_aasist bfloat16"}
"""By precision; bfloat16 is measured where the CPU multiplies it."""
TRAINERS = ("eager", "default malloc", "bfloat16")
SCORERS = ("eager", "default malloc", "folded", "compiled", "bfloat16", "compiled bfloat16")
STAGES = ("eager", "folded", "bfloat16")


def tables(results: Results) -> list[str]:
    return [*_scoring(results), "", *_training(results), "", *_stages(results)]


def _measured(results: Results, key: Key) -> list[tuple[str, str]]:
    """Return the precisions in which ours was measured, and our name in each."""
    times = ((precision, ours, results.time_or_none(key, ours)) for precision, ours in OURS.items())
    return [(precision, ours) for precision, ours, time in times if time is not None]


def _scoring(results: Results) -> list[str]:
    title = "Scoring clips of 4.04 s: milliseconds, clips per second, seconds per second of audio "
    title += "(real-time factor), and how many times that PyTorch takes, in float32 unless it says "
    title += "bfloat16."
    columns = ["threads", "batch", "ours", "ms", "spread", "clips/s", "real-time factor"]
    lines = head(title, [*columns, *SCORERS, "MB", "eager MB"])
    for name, threads in (("model", "all"), ("one core", "1")):
        for (batch,) in results.sizes(name):
            key = (name, "forward", (batch,))
            for precision, ours in _measured(results, key):
                time = results.time(key, ours)
                cells = [threads, str(batch), precision, *time_cells(results, key, 4, ours)]
                cells += [f"{1e6 * batch / time:.3g}", f"{time / 1e6 / batch / CLIP_S:.4f}"]
                cells += ratio_cells(results, key, SCORERS, ours)
                cells += megabyte_cells(results, key, (ours, "eager"))
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _training(results: Results) -> list[str]:
    title = "A training step, forward and backward, without the optimiser:"
    lines = head(title, ["batch", "ours", "ms", "spread", *TRAINERS, "MB", "eager MB"])
    for (batch,) in results.sizes("training"):
        key = ("training", "both", (batch,))
        for precision, ours in _measured(results, key):
            cells = [str(batch), precision, *time_cells(results, key, 4, ours)]
            cells += ratio_cells(results, key, TRAINERS, ours)
            cells += megabyte_cells(results, key, (ours, "eager"))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(results: Results) -> list[str]:
    size, peak = peak_rate(results)
    title = "The stages; GMAC/s counts the multiplications of direct convolution, and is compared "
    title += f"with those of a product of matrices of {size} in float32, {peak / 1e3:.0f} GMAC/s: "
    title += "Winograd's algorithm, in float32, needs half of them."
    columns = ["batch", "stage", "ours", "ms", "spread", *STAGES, "GMAC/s", "of matrices"]
    lines = head(title, columns)
    for (batch,) in results.sizes("front_end"):
        for stage in STAGE_MACS:
            key = (stage, "forward", (batch,))
            # The front end is in float32 in both.
            precisions = _measured(results, key)[: 1 if stage == "front_end" else None]
            for precision, ours in precisions:
                cells = [str(batch), stage, precision, *time_cells(results, key, ours=ours)]
                cells += ratio_cells(results, key, STAGES, ours)
                cells += rate_cells(results, key, peak, ours)
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Results) -> Figure:
    """Plot the time of every stage for one clip, ours and PyTorch's."""
    providers = {
        **{f"compiled kernels, {precision}": ours for precision, ours in reversed(OURS.items())},
        "folded, channels last": "folded",
        "eager": "eager",
    }
    measured = results.time_or_none(("block 1", "forward", (1,)), OURS["bfloat16"])
    if measured is None:
        del providers["compiled kernels, bfloat16"]
    return draw_stages(results, providers, STAGE_MACS, clips=1)
