"""Figures of error rates: against k, by attack, and the trade-off between the two errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.data.protocol import ABSENT, BONAFIDE
from sparse_aasist.evaluation.bootstrap import seed_intervals
from sparse_aasist.evaluation.figures import probit
from sparse_aasist.evaluation.metrics import compute_metrics, error_rates
from sparse_aasist.report.facts import Facts
from sparse_aasist.report.svg import HUES, INK, MUTED
from sparse_aasist.sweep.collect import EER_LIMIT, Configuration, ScoredSplit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = np.array([0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99])
# Not the hues of the widths.
_SPARSE, _DENSE = HUES[2], MUTED
_METRICS = (("eer", "EER, %", 100.0), ("min_dcf", "minDCF", 1.0))


def lines_by_width(facts: Facts) -> dict[str, list[Configuration]]:
    """Return what one line over k joins: equal configurations but for k, dense ones included."""
    lines: dict[str, list[Configuration]] = {}
    configurations = facts.collection.configurations
    for c in configurations:
        if not c.is_dense:
            lines.setdefault(_line_name(c, sparse=True), []).append(c)
    for c in configurations:
        if c.is_dense:
            base = _line_name(c, sparse=False)
            joined = [name for name in lines if name == base or name.startswith(base + ",")]
            for name in joined or [base]:
                lines.setdefault(name, []).append(c)
    return {name: sorted(line, key=lambda c: c.model.kept) for name, line in lines.items()}


def draw_against_k(figure: Figure, facts: Facts) -> None:
    """Draw both metrics against k on each split, with intervals and single seeds."""
    lines = lines_by_width(facts)
    ks = sorted({c.model.kept for c in facts.collection.configurations})
    grid = figure.subplots(2, len(facts.splits), squeeze=False, sharex=True, sharey="row")
    for row, (metric, label, factor) in zip(grid, _METRICS, strict=True):
        for axes, split in zip(row, facts.splits, strict=True):
            for place, (name, line) in enumerate(lines.items()):
                # A small shift keeps the whiskers of lines with equal k apart.
                shift = 1 + 0.035 * (place - (len(lines) - 1) / 2)
                colour = HUES[place % len(HUES)]
                _draw_line(axes, facts, line, split, metric, factor, shift, colour, name)
            axes.set_xscale("log")
            axes.set_xticks(ks, [str(k) for k in ks])
            axes.minorticks_off()
            axes.set_xlim(ks[0] / 1.2, ks[-1] * 1.2)
            axes.set_title(f"{label.split(',')[0]} on {split}")
        row[0].set_ylabel(label)
        # Only now: a limit set earlier would hide what the next panel adds.
        row[0].set_ylim(bottom=0)
    for axes in grid[-1]:
        axes.set_xlabel("values kept, k (logarithmic)")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)


def _draw_line(
    axes: Axes,
    facts: Facts,
    line: list[Configuration],
    split: str,
    metric: str,
    factor: float,
    shift: float,
    colour: str,
    name: str,
) -> None:
    places = np.array([c.model.kept * shift for c in line])
    rows = [facts.of(c, split) for c in line]
    means = factor * np.array([row[metric] for row in rows])
    axes.plot(places, means, "-", color=colour, linewidth=1.6, label=name)
    for place, level, row, c in zip(places, means, rows, line, strict=True):
        if row[f"{metric}_low"] is not None:
            bounds = [factor * row[f"{metric}_low"], factor * row[f"{metric}_high"]]
            axes.plot([place, place], bounds, "-", color=colour, linewidth=1.1)
        axes.plot(place, level, "s" if c.is_dense else "o", color=colour, markersize=5.5)
        seeds = [factor * r[metric] for r in facts.rows(c.runs, split, "pooled")]
        axes.plot([place] * len(seeds), seeds, "x", color=INK, markersize=4, alpha=0.6)


def attack_rates(
    scored: ScoredSplit, configuration: Configuration
) -> dict[str, tuple[NDArray[np.float64], tuple[float, float] | None]]:
    """Return each attack's EER by seed, (S,), and the 95 % interval of their mean."""
    scores = scored.of(configuration)
    bonafide = scored.labels == BONAFIDE
    found: dict[str, Any] = {}
    for attack in np.unique(scored.attacks[~bonafide]).tolist():
        if attack == ABSENT:
            continue
        chosen = bonafide | (scored.attacks == attack)
        labels, clusters = scored.labels[chosen], scored.clusters[chosen]
        rates = np.array([compute_metrics(row[chosen], labels).eer for row in scores])
        interval = None
        if np.unique(clusters).size > 1:
            interval = seed_intervals(scores[:, chosen], labels, clusters)[1].eer
        found[attack] = rates, interval
    return found


def draw_by_attack(
    figure: Figure, facts: Facts, pairs: list[tuple[int, list[Configuration]]]
) -> None:
    """Draw each attack's EER, a panel per width and split, sparse beside dense."""
    scored = facts.collection.scored
    grid = figure.subplots(len(pairs), len(facts.splits), squeeze=False, sharex=True)
    for row, (dim, configurations) in zip(grid, pairs, strict=True):
        for axes, split in zip(row, facts.splits, strict=True):
            height = 0.8 / len(configurations)
            for place, c in enumerate(configurations):
                rates = attack_rates(scored[split], c)
                offset = (place - (len(configurations) - 1) / 2) * height
                _draw_bars(axes, rates, offset, height, _DENSE if c.is_dense else _SPARSE)
            names = _attacks(scored[split])
            seen = facts.collection.seen_attacks
            marks = [name + (" (seen)" if name in seen else "") for name in names]
            axes.set_yticks(range(len(names)), marks)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.axvline(100 * EER_LIMIT, color=INK, linestyle="--", linewidth=1)
            axes.yaxis.grid(False)
            axes.set_title(f"D = {dim}, {split}")
    for axes in grid[-1]:
        axes.set_xlabel("EER, %")
        axes.set_xlim(left=0)
    _bar_legend(figure)


def _draw_bars(axes: Axes, rates: dict, offset: float, height: float, colour: str) -> None:
    for place, (seeds, interval) in enumerate(rates.values()):
        level = place + offset
        axes.barh(level, 100 * seeds.mean(), height=0.92 * height, color=colour, alpha=0.75)
        if interval is not None:
            axes.plot(100 * np.array(interval), [level, level], "-", color=INK, linewidth=1)
        axes.plot(100 * seeds, np.full(seeds.size, level), "x", color=INK, markersize=3.5)


def _bar_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_SPARSE, alpha=0.75, label="sparse"),
        Patch(color=_DENSE, alpha=0.75, label="dense"),
        Line2D([], [], color=INK, linewidth=1, label="95 % interval"),
        Line2D([], [], color=INK, marker="x", linestyle="", markersize=4, label="one seed"),
        Line2D([], [], color=INK, linestyle="--", linewidth=1, label="20 %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)


def draw_trade_off(figure: Figure, scored: ScoredSplit, runs: list[tuple[str, bool]]) -> None:
    """Draw the DET curves of runs, given by name and whether dense."""
    axes = figure.subplots()
    eers = []
    for name, dense in runs:
        scores = scored.scores[name]
        rates = error_rates(scores, scored.labels)
        far, frr = probit(rates.far), probit(rates.frr)
        # Steps that the eye cannot tell apart are left out.
        cells = np.round(np.stack((far, frr)), 3)
        shown = np.append(True, np.any(np.diff(cells, axis=1) != 0, axis=0))
        eers.append(compute_metrics(scores, scored.labels).eer)
        text = f"{name}: EER {100 * eers[-1]:.2f} %"
        colour = _DENSE if dense else _SPARSE
        axes.plot(far[shown], frr[shown], color=colour, linewidth=1.7, label=text)
    lower, upper = probit(np.array([0.001, 0.6 if max(eers) <= 0.3 else 0.99]))
    ticks = _TICKS[probit(_TICKS) <= upper + 1e-9]
    names = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xticks(probit(ticks), names)
    axes.set_yticks(probit(ticks), names)
    axes.set(xlim=(lower, upper), ylim=(lower, upper), aspect="equal")
    axes.plot([lower, upper], [lower, upper], ":", color=MUTED, linewidth=0.8)
    axes.set(xlabel="spoof accepted, %", ylabel="bona fide rejected, %")
    figure.legend(loc="outside lower center")


def _attacks(scored: ScoredSplit) -> list[str]:
    names = np.unique(scored.attacks[scored.labels != BONAFIDE]).tolist()
    return [name for name in names if name != ABSENT]


def _line_name(configuration: Configuration, *, sparse: bool) -> str:
    model = configuration.model
    words = [f"D = {model.dim}"] + (["sigmoid"] if model.sigmoid else [])
    if sparse:
        words += [f"by {model.topk_by}"] if model.topk_by != "value" else []
        words += [model.topk_order] if model.topk_order != "before_dropout" else []
    return ", ".join(words)
