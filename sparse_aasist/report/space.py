"""Sections on the embedding as a whole: which dimensions are used, and a map of the trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.model_analysis import BLOCKS
from sparse_aasist.data.protocol import BONAFIDE
from sparse_aasist.report.content import Paragraph, Section, Table
from sparse_aasist.report.facts import Facts
from sparse_aasist.report.figures_encoding import draw_usage
from sparse_aasist.report.svg import HUES, MUTED, picture
from sparse_aasist.report.text import mean, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TRIALS = 3000
_SEED = 1234
_MARKERS = ("x", "+", "1", "2")
"""Of spoofed trials; the next one when the colours are used up."""


def usage(facts: Facts) -> Section:
    """Draw and tabulate how often dimensions are active."""
    count = len(facts.collection.configurations)
    drawn = picture(
        "usage",
        (8.6, 0.7 + 1.75 * -(-count // 4)),
        lambda figure: draw_usage(figure, facts, "dev"),
        caption="Drawn: histogram of the share of dev trials on which a dimension is not zero, "
        "mean over seeds, in percent of D. Dashed: k / D, where all dimensions would be if they "
        "took turns evenly. A model that uses its width has its mass around that line; mass at 0 "
        "is dimensions that hardly ever fire, mass at 100 is dimensions that always do and so "
        "cannot tell by firing. No intervals.",
        alt="Histograms of the active share of dimensions, one per configuration.",
    )
    rows = []
    for c in facts.collection.configurations:
        usages = [analysis["usage"] for analysis in facts.analyses_of(c, "dev")]
        blocks = [mean(entry["share_by_block"][name] for entry in usages) for name in BLOCKS]
        never = mean(entry["never_active"] for entry in usages)
        rows.append((c.name, number(never, 1), *(percent(share, 1) for share in blocks)))
    table = Table(
        ("configuration", "never active", *(f"{name}, %" for name in BLOCKS)),
        rows,
        "On dev, means over seeds: dimensions that are zero on every trial, and the share of all "
        "active values by readout block (20 % each where nothing is preferred). The two max blocks "
        "are never negative, so a TopK of raw values favours them.",
    )
    return Section("usage", "Which dimensions are used", [drawn, table])


def embedding_map(facts: Facts) -> Section:
    """Draw a t-SNE map of the trials as the chosen run embeds them."""
    anchor, title = "map", "A map of the embedding"
    split = facts.last_split
    run = facts.best_run(facts.chosen)
    scored = facts.collection.scored[split]
    rows = _sample(len(scored.labels))
    embeddings = facts.embeddings(run, split).embeddings[rows]
    if len(np.unique(embeddings, axis=0)) < 4:
        text = f"Not drawn: {run.name} gives fewer than four different embeddings on {split}."
        return Section(anchor, title, [Paragraph(text, loud=True)])
    places = _tsne(embeddings)
    attacks, labels = scored.attacks[rows], scored.labels[rows]
    drawn = picture(
        "map",
        (8.2, 5.6),
        lambda figure: _draw_map(figure, places, attacks, labels == BONAFIDE),
        caption=f"Drawn: t-SNE (perplexity 30, or fewer for few trials; seed {_SEED}) of "
        f"{rows.size} of {len(scored.labels)} trials of {split} as {run.name} embeds them. Circles "
        "are bona fide; crosses and forks are spoofed, colour and shape tell the attack. A good "
        "model keeps circles apart from the others. What t-SNE does not show: distances between "
        "groups, their sizes and densities mean nothing, another seed moves them, and groups can "
        "appear in noise. No number is read off this map, and it has no interval.",
        alt=f"Scatter map of {rows.size} trials of {split} by attack.",
    )
    return Section(anchor, title, [drawn])


def _sample(count: int) -> NDArray[np.int64]:
    if count <= _MOST_TRIALS:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).choice(count, _MOST_TRIALS, replace=False))


def _tsne(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=_SEED, init="pca").fit_transform(embeddings)


def _draw_map(
    figure: Figure,
    places: NDArray[np.float64],
    attacks: NDArray[np.str_],
    bonafide: NDArray[np.bool_],
) -> None:
    axes = figure.subplots()
    # Thousands of marks are one picture, not as many elements of the page.
    style = {"linewidths": 0.9, "rasterized": True}
    axes.scatter(
        *places[bonafide].T, s=13, facecolors="none", edgecolors=MUTED, label="bona fide", **style
    )
    names = np.unique(attacks[~bonafide]).tolist()
    for index, name in enumerate(names):
        chosen = ~bonafide & (attacks == name)
        marker = _MARKERS[index // len(HUES) % len(_MARKERS)]
        colour = HUES[index % len(HUES)]
        axes.scatter(*places[chosen].T, s=17, marker=marker, color=colour, label=name, **style)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    columns = 1 if len(names) < 20 else 2
    figure.legend(loc="outside right upper", ncols=columns, markerscale=1.4)
