"""The picture of an evaluation: DET curves on probit axes and the EER of each attack.

DET curve: Martin et al., The DET curve in assessment of detection task performance, 1997.
"""

from __future__ import annotations

import os
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.evaluation.metrics import ErrorRates
from sparse_aasist.evaluation.report import Evaluation, ReportRow
from sparse_aasist.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS_PERCENT = (0.1, 0.5, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99.5, 99.9)
_COLOURS = {"pooled": "#222222", "seen attacks": "#2a7fb8", "unseen attacks": "#d9541e"}
_GREY = "#8a8a8a"
_PROBIT_LIMIT = 3.3


def plot(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draw DET curves and per-attack EERs with their 95 % intervals into a PNG file.

    Args:
        evaluation: what to draw.
        path: the picture, PNG; it appears complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    attacks = [row for row in evaluation.rows if row.group == "attack"]
    height = max(4.8, 1.6 + 0.25 * len(attacks))
    # A canvas of its own leaves pyplot's global state and backend alone.
    figure = Figure(figsize=(10.5 if attacks else 5.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    if attacks:
        det, bars = figure.subplots(1, 2, width_ratios=(1.0, 1.05))
        _draw_bars(bars, attacks, evaluation.pooled)
    else:
        det = figure.subplots()
    _draw_det(det, [row for row in evaluation.rows if row.rates is not None])
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def probit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map rates in [0, 1] to standard normal quantiles, to 1e-5 within the drawn range.

    Rates beyond the drawn range are put just outside it, so that curves run off the edge.
    """
    limit = _PROBIT_LIMIT + 0.5
    quantiles = np.linspace(-limit, limit, 4001)
    normal = NormalDist()
    return np.interp(rates, [normal.cdf(quantile) for quantile in quantiles], quantiles)


def _draw_det(axes: Axes, rows: list[ReportRow]) -> None:
    worst = max(row.metrics.eer for row in rows)
    # Good systems fill the usual square; only those near or beyond chance need the whole range.
    lower, upper = probit(np.array([0.001, 0.6 if worst <= 0.45 else 0.999]))
    for row in rows:
        if row.rates is None:
            continue
        colour = _COLOURS.get(row.group, _GREY)
        label = f"{row.name}: EER {100 * row.metrics.eer:.1f} %"
        axes.plot(*_curve(row.rates), color=colour, linewidth=1.8, label=label)
        # A perfect system has no crossing on probit axes; its mark stands in the corner.
        point = np.clip(probit(np.array([row.metrics.eer])), lower, upper)
        axes.plot(point, point, "o", color=colour, markersize=6, clip_on=False, zorder=3)
    axes.plot([lower, upper], [lower, upper], color=_GREY, linewidth=0.7, linestyle=":")
    ticks = np.array(_TICKS_PERCENT)
    ticks = ticks[probit(ticks / 100) <= upper + 1e-6]
    names = [f"{tick:g}" for tick in ticks]
    axes.set_xticks(probit(ticks / 100), names)
    axes.set_yticks(probit(ticks / 100), names)
    axes.set_xlim(lower, upper)
    axes.set_ylim(lower, upper)
    axes.set_aspect("equal")
    axes.set_xlabel("spoof accepted, %")
    axes.set_ylabel("bona fide rejected, %")
    axes.set_title("Detection error trade-off", fontsize=11)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    # Curves of weak systems leave the lower left free, those of strong ones the upper right.
    place: Literal["lower left", "upper right"] = "lower left" if worst > 0.05 else "upper right"
    axes.legend(loc=place, fontsize=9, framealpha=0.95, edgecolor="#d0d0d0")
    axes.tick_params(labelsize=8)


def _curve(rates: ErrorRates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curve in probit coordinates, thinned to what the eye can tell apart."""
    far, frr = probit(rates.far), probit(rates.frr)
    cells = np.stack((np.round(far, 3), np.round(frr, 3)))
    kept = np.concatenate(([True], np.any(np.diff(cells, axis=1) != 0, axis=0)))
    return far[kept], frr[kept]


def _draw_bars(axes: Axes, attacks: list[ReportRow], pooled: ReportRow) -> None:
    places = np.arange(len(attacks))
    eers = np.array([100 * row.metrics.eer for row in attacks])
    bounds = np.array(
        [row.intervals.eer if row.intervals else (row.metrics.eer,) * 2 for row in attacks]
    )
    errors = np.abs(100 * bounds - eers[:, None]).T
    groups = [_group(row.seen) for row in attacks]
    colours = [_COLOURS.get(group, "#5b7f95") for group in groups]
    axes.barh(places, eers, color=colours, height=0.68, alpha=0.85)
    axes.errorbar(eers, places, xerr=errors, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    axes.axvline(100 * pooled.metrics.eer, color=_COLOURS["pooled"], linestyle="--", linewidth=1)
    right = float(max(100 * bounds.max(), eers.max(), 100 * pooled.metrics.eer, 1.0))
    for place, (eer, high) in enumerate(zip(eers, 100 * bounds[:, 1], strict=True)):
        end = max(eer, high) + 0.015 * right
        backing = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(end, place, f"{eer:.1f}", va="center", fontsize=8, bbox=backing)
    axes.set_xlim(0, 1.12 * right)
    axes.set_yticks(places, [row.name for row in attacks], fontsize=8 if len(attacks) < 40 else 6)
    axes.set_ylim(len(attacks) - 0.4, -0.6)
    axes.set_xlabel("EER, %" + (" (whiskers: 95 % over speakers)" if pooled.intervals else ""))
    axes.set_title("All bona fide against each attack", fontsize=11)
    axes.xaxis.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    _legend(axes, groups)


def _group(seen: bool | None) -> str:
    return {True: "seen attacks", False: "unseen attacks", None: "attack"}[seen]


def _legend(axes: Axes, groups: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=_COLOURS[group], alpha=0.85, label=group)
        for group in ("seen attacks", "unseen attacks")
        if group in groups
    ]
    handles.append(Line2D([], [], color=_COLOURS["pooled"], linestyle="--", label="pooled EER"))
    # Outside the axes, where it can hide no bar.
    axes.figure.legend(
        handles=handles, fontsize=8, loc="outside lower right", ncols=len(handles), frameon=False
    )
