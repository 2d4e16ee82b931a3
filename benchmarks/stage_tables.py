"""What the tables of bench_model.py have in common on all devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure
from results import Key, Results

OURS = "sparse_aasist"
CLIP_S = 64_600 / 16_000
STAGE_MACS = {
    "front_end": 582e6,
    "block 1": 3183e6,
    "block 2": 2068e6,
    "block 3": 2390e6,
    "block 4": 918e6,
    "block 5": 306e6,
    "block 6": 102e6,
}
"""Multiplications of a clip of 64,600 samples by direct convolution."""


def head(title: str, columns: Iterable[str]) -> list[str]:
    """Return what stands above the rows of a table."""
    columns = list(columns)
    return [title, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def time_cells(results: Results, key: Key, digits: int = 3, ours: str = OURS) -> list[str]:
    """Return milliseconds and spread of ours."""
    milliseconds = results.time(key, ours) / 1e3
    return [f"{milliseconds:,.{digits}g}", f"{100 * results.spread(key, ours):.0f} %"]


def ratio_cells(
    results: Results, key: Key, providers: Iterable[str], ours: str = OURS
) -> list[str]:
    """Return how many times ours the others take, empty where they were not measured."""
    time = results.time(key, ours)
    return [results.ratio(key, provider, time) for provider in providers]


def megabyte_cells(results: Results, key: Key, providers: Iterable[str]) -> list[str]:
    """Return the peak memory of providers, empty where it was not measured."""
    peaks = [results.get_or_none(key, provider, "peak_bytes") for provider in providers]
    return ["" if peak is None else f"{peak / 1e6:,.3g}" for peak in peaks]


def peak_rate(results: Results) -> tuple[int, float]:
    """Return the size of the product of matrices, and its multiplications in a microsecond."""
    ((size,),) = results.sizes("peak")
    return size, size**3 / results.time(("peak", "forward", (size,)), "torch.mm")


def rate_cells(results: Results, key: Key, peak: float, ours: str = OURS) -> list[str]:
    """Return GMAC/s of a stage, and which part of the product of matrices that is."""
    stage, _, (batch,) = key
    rate = STAGE_MACS[stage] * batch / results.time(key, ours)
    return [f"{rate / 1e3:,.0f}", f"{100 * rate / peak:.0f} %"]


def draw_stages(
    results: Results, providers: Mapping[str, str], stages: Iterable[str], clips: int
) -> Figure:
    """Plot the time of every stage, one behind the other.

    Args:
        providers: by the name that they have in the plot, from below.
        clips: the batch.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    left = dict.fromkeys(providers, 0.0)
    for index, stage in enumerate(stages):
        key: Key = (stage, "forward", (clips,))
        times = [results.time_or_none(key, provider) for provider in providers.values()]
        # A run that was cut off; bars of different stages would not compare.
        if None in times:
            break
        widths = [time / 1e3 for time in times]
        axis.barh(list(left), widths, left=list(left.values()), label=stage, color=f"C{index}")
        left = {name: left[name] + width for name, width in zip(left, widths, strict=True)}
    axis.set(xlabel=f"milliseconds for {'a clip' if clips == 1 else f'{clips} clips'} of 4.04 s")
    if axis.patches:
        axis.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure
