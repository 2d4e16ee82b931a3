"""Tables and plot of bench_model.py on a GPU."""

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

PLOT = "time of the stages of 128 clips"
BASELINES = ("eager", "float32", "bfloat16", "folded", "compiled")
STAGES = (*STAGE_MACS, "graphs")
WITH_MEMORY = ("sparse_aasist", "eager", "bfloat16")
MEMORY_HEADER = ("MB", "eager MB", "bfloat16 MB")
COUNT_HEADER = ("launches", "eager", "bfloat16")


def tables(results: Results) -> list[str]:
    return [*_scoring(results), "", *_training(results), "", *_stages(results)]


def _scoring(results: Results) -> list[str]:
    title = "Scoring clips of 4.04 s, the encoder in bfloat16: milliseconds, clips per second, how "
    title += "many times faster than speech is spoken, and how many times that the others take. "
    title += '"graph" replays a CUDA graph, "launched" is called as users do.'
    columns = ["run", "batch", "ms", "spread", "clips/s", "x real time", *BASELINES]
    lines = head(title, [*columns, *COUNT_HEADER, *MEMORY_HEADER])
    for name, how in (("model", "graph"), ("launched", "launched")):
        for (batch,) in results.complete(name, "forward"):
            key = (name, "forward", (batch,))
            rate = 1e6 * batch / results.time(key, "sparse_aasist")
            cells = [how, str(batch), *time_cells(results, key)]
            cells += [f"{rate:,.3g}", f"{rate * CLIP_S:,.3g}"]
            cells += ratio_cells(results, key, BASELINES)
            cells += _counts(results, key) + megabyte_cells(results, key, WITH_MEMORY)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _training(results: Results) -> list[str]:
    baselines = ("eager", "float32", "bfloat16")
    title = "A training step, forward and backward, without the optimiser, as users call it:"
    columns = ["batch", "ms", "spread", *baselines, *COUNT_HEADER, *MEMORY_HEADER]
    lines = head(title, columns)
    for (batch,) in results.complete("training", "both"):
        key = ("training", "both", (batch,))
        cells = [str(batch), *time_cells(results, key), *ratio_cells(results, key, baselines)]
        cells += _counts(results, key) + megabyte_cells(results, key, WITH_MEMORY)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(results: Results) -> list[str]:
    size, peak = peak_rate(results)
    title = "The stages, replayed; both: forward and backward in training. GMAC/s counts the "
    title += "multiplications of direct convolution, and is compared with those of a product of "
    title += f"bfloat16 matrices of {size}, {peak / 1e3:,.0f} GMAC/s. The graphs run in float32."
    columns = ["pass", "batch", "stage", "ms", "spread", "eager", "bfloat16"]
    lines = head(title, [*columns, "GMAC/s", "of matrices", *MEMORY_HEADER])
    for mode in ("forward", "both"):
        for stage in STAGES:
            for (batch,) in results.complete(stage, mode):
                key = (stage, mode, (batch,))
                cells = [mode, str(batch), stage, *time_cells(results, key)]
                cells += ratio_cells(results, key, ("eager", "bfloat16"))
                is_counted = mode == "forward" and stage in STAGE_MACS
                cells += rate_cells(results, key, peak) if is_counted else ["", ""]
                cells += megabyte_cells(results, key, WITH_MEMORY)
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _counts(results: Results, key: Key) -> list[str]:
    counts = [results.get_or_none(key, provider, "launches") for provider in WITH_MEMORY]
    return ["" if count is None else f"{count:,.0f}" for count in counts]


def draw(results: Results) -> Figure:
    """Plot the time of every stage of the largest batch, ours and PyTorch's."""
    providers = {
        "our kernels, bfloat16": "sparse_aasist",
        "bfloat16, channels last": "bfloat16",
        "eager, TF32": "eager",
    }
    clips = max((batch for (batch,) in results.complete(STAGES[0], "forward")), default=0)
    return draw_stages(results, providers, STAGES, clips)
