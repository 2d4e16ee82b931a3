"""Figures of information: exceedance curves, the heat map, and bars of single dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.information import exceedance
from sparse_aasist.report.facts import HEADLINE, Facts
from sparse_aasist.report.svg import HUES, INK, MUTED
from sparse_aasist.sweep.collect import Configuration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THRESHOLDS = np.linspace(0.0, 0.5, 101)
_STYLES = ("--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_QUANTITIES = (("nmi", "observed"), ("null_mean", "mean of the null"))


def line_style(facts: Facts, configuration: Configuration) -> dict[str, Any]:
    """Return colour by width and dashes by k; dense lines are solid."""
    everything = facts.collection.configurations
    dims = sorted({c.model.dim for c in everything})
    sparse = [c for c in everything if c.model.dim == configuration.model.dim and not c.is_dense]
    style: Any = "-"
    if not configuration.is_dense:
        style = _STYLES[sparse.index(configuration) % len(_STYLES)]
    colour = HUES[dims.index(configuration.model.dim) % len(HUES)]
    return {"color": colour, "linestyle": style, "linewidth": 1.6, "label": configuration.name}


def draw_exceedance(figure: Figure, facts: Facts, splits: Sequence[str]) -> None:
    """Draw the share of entries above each threshold, observed above the null."""
    grid = figure.subplots(2, len(splits), squeeze=False, sharex=True, sharey=True)
    for row, (key, title) in zip(grid, _QUANTITIES, strict=True):
        for axes, split in zip(row, splits, strict=True):
            for c in facts.collection.configurations:
                found = [a["attacks"][HEADLINE] for a in facts.analyses_of(c, split)]
                curves = [exceedance(f[key], _THRESHOLDS) for f in found if f]
                if curves:
                    shares = 100 * np.mean(curves, axis=0)
                    axes.plot(_THRESHOLDS, shares, **line_style(facts, c))
            axes.set_title(f"{title}, {split}")
            axes.set(xlim=(0, 0.5), ylim=(0, None))
        row[0].set_ylabel("entries above, %")
    for axes in grid[-1]:
        axes.set_xlabel("threshold of M")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))


def heat_map_order(found: dict[str, Any]) -> NDArray[np.int64]:
    """Order dimensions: informative ones by strongest factor and falling share, then the rest."""
    nmi = np.array(found["nmi"])
    others = ~np.array(found["informative"])
    return np.lexsort((-nmi.max(axis=1), nmi.argmax(axis=1), others))


def draw_heat_map(figure: Figure, found: dict[str, Any]) -> None:
    """Draw M with dimensions from left to right, those not above their null in grey."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    order = heat_map_order(found)
    nmi = np.array(found["nmi"])[order]
    informative = np.array(found["informative"])[order]
    scale = Normalize(0, max(float(nmi.max()), 1e-6))
    image = colormaps["viridis"](scale(nmi))
    image[~informative] = colormaps["Greys"](0.25 + 0.6 * scale(nmi[~informative]))
    axes = figure.subplots()
    # Drawn as it is, one pixel an entry; the page scales it without smoothing.
    axes.imshow(image.transpose(1, 0, 2), aspect="auto", interpolation="none")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks(range(len(found["factors"])), found["factors"])
    axes.set_xlabel(
        f"{int(informative.sum())} informative dimensions, then {int((~informative).sum())} others"
    )
    figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes, label="M (nMI)", pad=0.01)


def draw_dimensions(figure: Figure, found: dict[str, Any], dims: Sequence[int]) -> None:
    """Draw the row of M of each dimension as bars, with the 95 % quantile of its null."""
    panels = figure.subplots(1, len(dims), squeeze=False, sharey=True)[0]
    factors = found["factors"]
    places = np.arange(len(factors))
    for axes, dim in zip(panels, dims, strict=True):
        axes.bar(places, found["nmi"][dim], width=0.7, color=HUES[0], alpha=0.85)
        for place, quantile in zip(places, found["null_quantile"][dim], strict=True):
            axes.plot([place - 0.42, place + 0.42], [quantile] * 2, "-", color=INK, linewidth=1.4)
        axes.set_xticks(places, factors, rotation=40, ha="right", rotation_mode="anchor")
        axes.xaxis.grid(False)
        modularity = found["modularity_rm"]["values"][dim]
        axes.set_title(f"dimension {dim}, modularity (R&M) {modularity:.2f}")
    panels[0].set_ylabel("M (nMI)")
    panels[0].plot([], [], "-", color=INK, linewidth=1.4, label="95 % quantile of the null")
    panels[0].bar([0], [0], color=HUES[0], alpha=0.85, label="observed")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)


def draw_usage(figure: Figure, facts: Facts, split: str) -> None:
    """Draw a histogram of the active share of the dimensions for each configuration."""
    shown = facts.collection.configurations
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    edges = np.linspace(0, 100, 21)
    for axes, c in zip(grid, shown, strict=False):
        shares = [a["usage"]["active_share"] for a in facts.analyses_of(c, split)]
        counts = np.mean([np.histogram(100 * np.array(s), edges)[0] for s in shares], axis=0)
        percentages = 100 * counts / c.model.dim
        axes.bar(edges[:-1], percentages, width=4.6, align="edge", color=HUES[0], alpha=0.85)
        nominal = 100 * c.model.kept / c.model.dim
        axes.axvline(nominal, color=MUTED, linestyle="--", linewidth=1.2)
        axes.set_title(c.name, fontsize=8.5)
        axes.set_ylim(0, 100)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[max(len(shown) - columns, 0) : len(shown)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("trials on which a dimension is active, %", fontsize=9)
    figure.supylabel("dimensions, %", fontsize=9)
