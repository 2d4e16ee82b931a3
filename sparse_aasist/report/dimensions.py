"""Section on single dimensions: what they know, and what the classifier does with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.report.content import Block, Paragraph, Section, Table
from sparse_aasist.report.facts import HEADLINE, Facts
from sparse_aasist.report.figures_encoding import draw_dimensions
from sparse_aasist.report.svg import picture
from sparse_aasist.report.text import NONE, listed, number, percent, points, probability

_SHOWN = 12


def single_dimensions(facts: Facts) -> Section:
    """Show the most modular dimension, a contrasting one, and what silencing them does."""
    anchor, title = "dimensions", "Single dimensions and single attacks"
    run = facts.best_run(facts.chosen)
    analysis = facts.analyses["dev"][run.name]
    found = analysis["attacks"][HEADLINE]
    blocks: list[Block] = []
    if found is None:
        blocks.append(Paragraph(f"Not measured: {listed(analysis['notes'])}.", loud=True))
    else:
        blocks += _bars(run.name, found)
        blocks.append(_dimension_table(run.name, analysis, found))
    blocks += _agreement(run.name, analysis)
    blocks += _dedicated(facts, run.name)
    return Section(anchor, title, blocks)


def _bars(name: str, found: dict[str, Any]) -> list[Block]:
    values = found["modularity_rm"]["values"]
    known = [dim for dim, value in enumerate(values) if value is not None]
    if not known:
        text = (
            f"{name} has no dimension with a modularity: none is above its null, or there are "
            "only two classes."
        )
        return [Paragraph(text, loud=True)]
    highest = max(known, key=lambda dim: values[dim])
    lowest = min(known, key=lambda dim: values[dim])
    shown = [highest, lowest] if highest != lowest else [highest]
    drawn = picture(
        "dimensions",
        (4.3 * len(shown) + 0.4, 3.7),
        lambda figure: draw_dimensions(figure, found, shown),
        caption=f"Drawn: M of the informative dimensions of {name} with the highest and the lowest "
        "modularity (Ridgeway and Mozer) on dev; numbers of dimensions are arbitrary, so these are "
        "chosen by this rule. Lines: 95 % quantile of 100 permutations, entry by entry. A "
        "dimension of one attack has one bar above its line; a neighbouring low bar follows of "
        "necessity, because attacks exclude each other. The extremes of many dimensions look more "
        "extreme than they are; the confirmed table below does not have that fault.",
        alt=f"Bars of information by factor for dimensions {listed(shown)} of {name}.",
    )
    return [drawn]


def _dimension_table(name: str, analysis: dict[str, Any], found: dict[str, Any]) -> Table:
    excess = np.array(found["total"]) - np.array(found["total_null_mean"])
    order = [d for d in np.argsort(-excess, kind="stable").tolist() if found["informative"][d]]
    return Table(
        (
            "dimension", "strongest factor", "silenced: EER moved most",
            "doubled: EER moved most", "M", "null 95 %", "p", "modularity R&M",
            "modularity, entropy", "active, %",
        ),
        [_dimension_row(dim, analysis, found) for dim in order[:_SHOWN]],
        f"{name} on dev: the informative dimensions ({len(order)}, at most {_SHOWN} shown) by "
        "share of the whole attack label. Silenced: set to 0 after TopK; doubled: times two; the "
        "attack whose EER moves furthest, in percentage points (plus: worse). What is known need "
        "not be used, and dimensions that stand in for each other move nothing alone.",
        words=4,
    )  # fmt: skip


def _dimension_row(dim: int, analysis: dict[str, Any], found: dict[str, Any]) -> tuple[str, ...]:
    effects = analysis["intervention"]
    factor = int(np.argmax(found["nmi"][dim]))
    return (
        str(dim),
        found["factors"][factor],
        _moved(effects, "silenced", dim),
        _moved(effects, "boosted", dim),
        number(found["nmi"][dim][factor]),
        number(found["null_quantile"][dim][factor]),
        number(found["p_value"][dim][factor]),
        number(found["modularity_rm"]["values"][dim]),
        number(found["modularity_entropy"]["values"][dim]),
        percent(analysis["usage"]["active_share"][dim], 1),
    )


def _moved(effects: dict[str, Any], change: str, dim: int) -> str:
    shift = np.array(effects[change][dim]) - np.array(effects["baseline"])
    if not shift.any():
        return "none"
    furthest = int(np.abs(shift).argmax())
    return f"{effects['attacks'][furthest]} {points(shift[furthest])}"


def _agreement(name: str, analysis: dict[str, Any]) -> list[Block]:
    agreement = analysis["agreement"]
    if agreement is None:
        return [Paragraph("Knowledge and effect cannot be compared: information was not measured.")]
    columns = agreement["attacks"], agreement["rho"], agreement["p_value"]
    rows = []
    for attack, rho, p_value in zip(*columns, strict=True):
        shift = _shift_of(analysis["intervention"], attack)
        dim = int(np.abs(shift).argmax())
        most = f"dimension {dim}: {points(shift[dim])}" if shift[dim] else "no effect of any"
        rows.append((attack, most, number(rho, 2), probability(p_value)))
    return [
        Table(
            ("attack", "largest effect of silencing", "rho", "p"),
            rows,
            f"{name} on dev: do dimensions that know an attack also decide it? Spearman's rho over "
            "alive dimensions between M and the size of the shift of that attack's EER; p takes "
            f"dimensions as independent, which they are not. “{NONE}”: nothing moves. In a "
            "model whose parts mean something rho is high.",
            words=2,
        )
    ]


def _shift_of(effects: dict[str, Any], attack: str) -> NDArray[np.float64]:
    column = effects["attacks"].index(attack)
    return np.array(effects["silenced"])[:, column] - effects["baseline"][column]


def _dedicated(facts: Facts, name: str) -> list[Block]:
    """Tabulate the chosen run by attack and all configurations by share."""
    blocks: list[Block] = []
    dedicated = facts.analyses["dev"][name]["dedicated"]
    if dedicated:
        blocks.append(
            Table(
                ("attack", "dimension", "confirmed", "causal"),
                [
                    (a, str(e["dimension"]), _yes(e["confirmed"]), _yes(e["causal"]))
                    for a, e in dedicated.items()
                ],
                f"{name} on dev: each attack's best dimension on one half of the trials. "
                "Confirmed: on the other half it is above the null and strongest for the same "
                "attack. Causal: besides, silencing it moves no other attack's EER further.",
                words=4,
            )
        )
    rows = []
    for c in facts.collection.configurations:
        found = [a["dedicated"] for a in facts.analyses_of(c, "dev") if a["dedicated"]]
        if found:
            counts = [sum(e[key] for f in found for e in f.values()) for key in _STEPS]
            total = sum(map(len, found))
            rows.append((c.name, *(f"{count} of {total}" for count in counts)))
    if rows:
        blocks.append(
            Table(
                ("configuration", *_STEPS),
                rows,
                "The same, attacks of all seeds together. The paper's claim that single dimensions "
                "encode single attacks rests on looking at two of them [secondary].",
            )
        )
    if not dedicated:
        text = (
            f"Dedicated dimensions of {name} cannot be looked for: half of the trials of dev has "
            "nothing to measure, or attacks have fewer than ten trials."
        )
        blocks.append(Paragraph(text))
    return blocks


_STEPS = ("confirmed", "causal")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
