"""Tables and plot of bench_model.py."""

from __future__ import annotations

from matplotlib.figure import Figure
from results import Key, Results

PLOT = "time of the stages of a clip"
CLIP_S = 64_600 / 16_000
BASELINES = ("eager", "default malloc", "folded", "compiled", "bfloat16")
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
GEMM_MACS = 2048**3


def tables(results: Results) -> list[str]:
    return [*_scoring(results), "", *_training(results), "", *_stages(results)]


def _scoring(results: Results) -> list[str]:
    title = "Scoring clips of 4.04 s, float32: milliseconds, clips per second, seconds per second "
    title += "of audio (real-time factor), and how many times that the others take."
    header = ["threads", "batch", "ms", "spread", "clips/s", "real-time factor"]
    header += [*BASELINES, "MB", "eager MB"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, threads in (("model", "all"), ("one core", "1")):
        for (batch,) in results.sizes(name):
            key = (name, "forward", (batch,))
            ours = results.time(key, "sparse_aasist")
            cells = [threads, str(batch), f"{ours / 1e3:,.4g}"]
            cells.append(f"{100 * results.spread(key, 'sparse_aasist'):.0f} %")
            cells += [f"{1e6 * batch / ours:.3g}", f"{ours / 1e6 / batch / CLIP_S:.4f}"]
            cells += [_ratio(results, key, provider, ours) for provider in BASELINES]
            cells += [_megabytes(results, key, p) for p in ("sparse_aasist", "eager")]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _training(results: Results) -> list[str]:
    baselines = ("eager", "default malloc", "bfloat16")
    title = "A training step, forward and backward, without the optimiser:"
    header = ["batch", "ms", "spread", *baselines, "MB", "eager MB"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for (batch,) in results.sizes("training"):
        key = ("training", "both", (batch,))
        ours = results.time(key, "sparse_aasist")
        cells = [str(batch), f"{ours / 1e3:,.4g}"]
        cells.append(f"{100 * results.spread(key, 'sparse_aasist'):.0f} %")
        cells += [_ratio(results, key, provider, ours) for provider in baselines]
        cells += [_megabytes(results, key, p) for p in ("sparse_aasist", "eager")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(results: Results) -> list[str]:
    ((size,),) = results.sizes("peak")
    peak = GEMM_MACS / results.time(("peak", "forward", (size,)), "torch.mm")
    title = "The stages; GMAC/s counts the multiplications of direct convolution, and is compared "
    title += f"with those of a product of matrices of {size}, {peak / 1e3:.0f} GMAC/s: Winograd's "
    title += "algorithm needs half of them."
    header = ["batch", "stage", "ms", "spread", "eager", "folded", "GMAC/s", "of matrices"]
    lines = [title, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for (batch,) in results.sizes("front_end"):
        for stage in STAGE_MACS:
            key = (stage, "forward", (batch,))
            ours = results.time(key, "sparse_aasist")
            cells = [str(batch), stage, f"{ours / 1e3:,.3g}"]
            cells.append(f"{100 * results.spread(key, 'sparse_aasist'):.0f} %")
            cells += [_ratio(results, key, provider, ours) for provider in ("eager", "folded")]
            rate = STAGE_MACS[stage] * batch / ours
            cells += [f"{rate / 1e3:.0f}", f"{100 * rate / peak:.0f} %"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratio(results: Results, key: Key, provider: str, ours: float) -> str:
    time = results.time_or_none(key, provider)
    return "" if time is None else f"{time / ours:.1f}x"


def _megabytes(results: Results, key: Key, provider: str) -> str:
    return f"{results.get(key, provider, 'peak_bytes') / 1e6:,.3g}"


def draw(results: Results) -> Figure:
    """Plot the time of every stage for one clip, ours and PyTorch's."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    left = dict.fromkeys(("compiled kernels", "folded, channels last", "eager"), 0.0)
    providers = dict(zip(left, ("sparse_aasist", "folded", "eager"), strict=True))
    for index, stage in enumerate(STAGE_MACS):
        times = [results.time((stage, "forward", (1,)), p) / 1e3 for p in providers.values()]
        axis.barh(list(left), times, left=list(left.values()), label=stage, color=f"C{index}")
        left = {name: left[name] + time for name, time in zip(left, times, strict=True)}
    axis.set(xlabel="milliseconds for a clip of 4.04 s")
    axis.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure
