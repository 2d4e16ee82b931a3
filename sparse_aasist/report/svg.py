"""Figures of the report: drawn by matplotlib, inlined as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from sparse_aasist.report.content import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1d1f", "#7b7f83", "#d9dbdd"
"""Drawn in these, and turned into the variables of the page, which differ by light and dark."""
HUES = ("#2f7fc1", "#d9601f", "#2f9e6b", "#a05bc0", "#b08a1e", "#c4476f")
"""Legible on white and on black."""

_REM_PER_INCH = 7.8
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
_STYLE = {
    # Names of attacks and codecs are text, whatever signs they hold.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 100,
}


def picture(
    name: str,
    size: tuple[float, float],
    draw: Callable[[Figure], None],
    *,
    caption: str,
    alt: str,
) -> Picture:
    """Draw a figure and return it for the page.

    Args:
        name: letters and hyphens, unique in the page.
        size: width and height in inches.
        draw: fills the figure.
        caption, alt: as in `Picture`.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt makes equal figures equal files.
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        # A canvas of its own leaves pyplot's global state and backend alone.
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    return Picture(_inline(text.getvalue(), name, size[0], alt), caption, alt)


def _inline(svg: str, name: str, width: float, alt: str) -> Markup:
    """Make a file that matplotlib wrote part of a page: no header, no clash of ids, a name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    label = f'role="img" aria-label="{escape(alt)}"'
    # Letters keep their size from figure to figure; below half of it the box scrolls.
    label += f' style="max-width: {_REM_PER_INCH * width:.1f}rem; min-width: {4 * width:.1f}rem"'
    links = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg {box[0]} {links} xmlns="http://www.w3.org/2000/svg" {label}>{body}')
