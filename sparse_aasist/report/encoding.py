"""Sections on what the dimensions know: entries of M, scores, heat map, other factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_aasist.analysis.model_analysis import RULES
from sparse_aasist.report.content import Block, Paragraph, Section, Table
from sparse_aasist.report.facts import HEADLINE, Facts
from sparse_aasist.report.figures_encoding import draw_exceedance, draw_heat_map
from sparse_aasist.report.svg import picture
from sparse_aasist.report.text import NONE, listed, mean, number
from sparse_aasist.sweep.collect import Configuration

_RULE_NAMES = {
    "equal_width": "equal width",
    "zero_aware": "zero-aware",
    "on_off": "on/off",
}
_SCORES = (
    ("completeness", "completeness"),
    ("completeness_corrected", "completeness, corrected"),
    ("effective_dims_corrected", "effective dims, corrected"),
    ("mig", "MIG"),
    ("modularity_rm", "modularity R&M"),
    ("modularity_entropy", "modularity, entropy"),
)


def exceeding(facts: Facts) -> Section:
    """Draw the share of entries of M above a threshold."""
    anchor, title = "exceedance", "How much the dimensions know of attacks"
    splits = [s for s in facts.splits if any(_measured(facts, s))]
    reasons = _reasons(facts, [s for s in facts.splits if s not in splits])
    if not splits:
        return Section(anchor, title, [Paragraph(f"Not drawn: {reasons}.", loud=True)])
    drawn = picture(
        "exceedance",
        (3.9 * len(splits) + 0.8, 5.6),
        lambda figure: draw_exceedance(figure, facts, splits),
        caption="Drawn: share of the entries of M above a threshold, mean over seeds. M[d, f] is "
        "the share of the uncertainty about “is of attack f” that dimension d removes "
        "(20 equal bins). Lower row: the same of the null mean of each entry, labels permuted 100 "
        "times; what is there is bias, and differs between models, because fuller bins have more "
        "of it. A model whose few dimensions know much has a long tail to the right, and an upper "
        "curve far above the lower. No intervals: the table of scores has the spread of seeds.",
        alt=f"Curves of the share of information entries above a threshold on {listed(splits)}, "
        "observed and null.",
    )
    paper = (
        "The paper draws this for D in {160, 320} and k in {50, D} on dev; for D=160, k=50 about "
        "20 % of its entries are above 0.05 [secondary]."
    )
    return Section(anchor, title, [drawn, Paragraph(paper)])


def scores(facts: Facts) -> Section:
    """Tabulate the disentanglement scores beside their nulls."""
    blocks: list[Block] = []
    for split in facts.splits:
        if not any(_measured(facts, split)):
            blocks.append(Paragraph(f"Not on {split}: {_reasons(facts, [split])}.", loud=True))
            continue
        blocks += [_score_table(facts, split), _completeness_table(facts, split)]
    reasons = _reasons(facts, facts.splits)
    if reasons:
        blocks.append(Paragraph(f"Not measured: {reasons}."))
    blocks.append(
        Paragraph(
            "Compare a value with its null, never with 1. Modularity after Ridgeway and Mozer of "
            "an on/off dimension that knows nothing is about 0.9, and sparsity alone raises it; "
            "the entropy form cannot reach 1, because the classes exclude each other. The paper's "
            "1.00 and 0.74 for two single dimensions [secondary] fit the first form [inferred]. "
            "Its completeness values are not known to us. Completeness divides by ln D: compare "
            "widths by effective dimensions, exp(entropy), fewer being more complete."
        )
    )
    return Section("disentanglement", "Disentanglement scores", blocks)


def heat_map(facts: Facts) -> Section:
    """Draw M of the chosen run."""
    anchor, title = "heat-map", "The information matrix of the chosen run"
    run = facts.best_run(facts.chosen)
    rule = (
        f"Chosen: {run.name}. Rule: the run with the lowest EER on dev among the seeds of the "
        "sparse configuration with the lowest mean EER on dev; eval is not used."
    )
    found = facts.analyses["dev"][run.name]["attacks"][HEADLINE]
    if found is None:
        reasons = _reasons(facts, ["dev"])
        return Section(
            anchor, title, [Paragraph(rule), Paragraph(f"Not drawn: {reasons}.", loud=True)]
        )
    drawn = picture(
        "heat-map",
        (8.6, 1.3 + 0.3 * len(found["factors"])),
        lambda figure: draw_heat_map(figure, found),
        caption=f"Drawn: M on dev ({found['rows']} trials), a column per dimension, sorted by "
        "strongest factor and falling share. Grey: dimensions whose largest share is not above the "
        "95 % quantile of their null (100 permutations of the labels; about one in twenty "
        "dimensions that know nothing passes). In a disentangled model each column has one bright "
        "entry and each row few.",
        alt=f"Heat map of information shares, {len(found['factors'])} factors by "
        f"{len(found['nmi'])} dimensions, of {run.name}.",
    )
    return Section(anchor, title, [Paragraph(rule), drawn])


def other_factors(facts: Facts) -> Section:
    """List the dimensions that know most of each factor, the attack first."""
    anchor, title = "other-factors", "What else the dimensions know"
    run = facts.best_run(facts.chosen)
    analysis = facts.analyses["dev"][run.name]
    attack = analysis["attacks"][HEADLINE]
    factors = {"attack": attack, **analysis["factors"]}
    rows = [row for name, found in factors.items() if found for row in _top(name, found, attack, 3)]
    blocks: list[Block] = []
    left = [*analysis["skipped_factors"], *(name for name, found in factors.items() if not found)]
    if left:
        text = (
            f"Left out: {listed(left)}; the protocol does not tell them apart, or fewer than two "
            "of their classes have ten trials."
        )
        blocks.append(Paragraph(text))
    if rows:
        blocks.append(
            Table(
                (
                    "factor", "dimension", "strongest attack of it", "share of the factor",
                    "null mean", "p", "its share of the attack",
                ),
                rows,
                f"{run.name} on dev: for each factor the three dimensions with the largest share "
                "of its entropy above the null. Attack and codec on all trials; gender, speaker "
                "and acoustics (tertiles) on bona fide trials only, where no attack can stand in "
                "for them. p by 100 permutations, so never below 0.01, and of the best three of D "
                "dimensions, so small p are expected by chance. An attack dimension that also "
                "follows pitch or level may be a detector of that property.",
                words=3,
            )
        )  # fmt: skip
    return Section(anchor, title, blocks)


def _measured(facts: Facts, split: str) -> list[bool]:
    return [a["attacks"][HEADLINE] is not None for a in facts.analyses[split].values()]


def _reasons(facts: Facts, splits: Sequence[str]) -> str:
    """Say, once each, why readings are absent."""
    notes = {
        f"{split}: {note}"
        for split in splits
        for configuration in facts.collection.configurations
        for analysis in facts.analyses_of(configuration, split)
        for note in analysis["notes"]
        # Said in the caption of the table.
        if not (configuration.is_dense and note.startswith("attacks, on_off"))
    }
    return "; ".join(sorted(notes))


def _score_table(facts: Facts, split: str) -> Table:
    head = ["configuration", "bins", "informative dims"]
    for _, name in _SCORES:
        head += [name, "null"]
    rows = [
        (c.name, _RULE_NAMES[rule], *_score_cells(facts, c, split, rule))
        for rule in RULES
        for c in facts.collection.configurations
    ]
    return Table(
        head,
        rows,
        f"On {split}: means over seeds ± SD between them, and means of the null (permuted labels). "
        "Bins: 20 of equal width (the headline); one for zero and 19 quantiles; or on and off, "
        "where a dense embedding, without zeros, has nothing to read. "
        "Corrected: of M less its null mean. Completeness, effective dimensions and MIG are means "
        "over factors; modularity over informative dimensions, and its null over those that a "
        "permutation makes look informative.",
        words=2,
    )


def _score_cells(facts: Facts, configuration: Configuration, split: str, rule: str) -> list[str]:
    found = [a["attacks"][rule] for a in facts.analyses_of(configuration, split)]
    found = [entry for entry in found if entry]
    cells = [number(mean(sum(entry["informative"]) for entry in found), 1)]
    for key, _ in _SCORES:
        digits = 1 if key.startswith("effective") else 3
        # The null of a run that has no value would be compared with other runs.
        levels = [entry[key]["mean"] for entry in found]
        levels = [level for level in levels if level["value"] is not None]
        values, nulls = ([level[part] for level in levels] for part in ("value", "null_mean"))
        cells += [_with_deviation(values, digits), number(mean(nulls), digits)]
    return cells


def _with_deviation(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    text = number(mean(known), digits)
    return f"{text} ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else text


def _completeness_table(facts: Facts, split: str) -> Table:
    measured = [a["attacks"][HEADLINE] for a in facts.analyses[split].values()]
    factors = next(found for found in measured if found)["factors"]
    rows = []
    for c in facts.collection.configurations:
        found = [a["attacks"][HEADLINE] for a in facts.analyses_of(c, split)]
        for key, what in (("values", "observed"), ("null_mean", "null")):
            columns = [[e["completeness"][key][i] for e in found if e] for i in range(len(factors))]
            rows.append((c.name, what, *(number(mean(column)) for column in columns)))
    return Table(
        ("configuration", "", *factors),
        rows,
        f"Completeness of each factor on {split} (20 equal bins), mean over seeds.",
        words=2,
        folded=f"Completeness by attack on {split}",
    )


def _top(
    name: str, found: dict[str, Any], attack: dict[str, Any] | None, count: int
) -> list[tuple[str, ...]]:
    excess = np.array(found["total"]) - np.array(found["total_null_mean"])
    rows = []
    for dim in np.argsort(-excess, kind="stable")[:count].tolist():
        strongest, share = NONE, None
        if attack:
            share = attack["total"][dim]
            if attack["informative"][dim]:
                strongest = attack["factors"][int(np.argmax(attack["nmi"][dim]))]
        cells = (found["total"][dim], found["total_null_mean"][dim], found["total_p_value"][dim])
        rows.append((name, str(dim), strongest, *map(number, cells), number(share)))
    return rows
