"""Sections on error rates: against k, by attack, the trade-off curve, and by codec."""

from __future__ import annotations

from sparse_aasist.evaluation.conditions import condition_table
from sparse_aasist.evaluation.trials import codec_name
from sparse_aasist.report.content import Block, Paragraph, Section, Table
from sparse_aasist.report.facts import Facts
from sparse_aasist.report.figures_rates import draw_against_k, draw_by_attack, draw_trade_off
from sparse_aasist.report.svg import picture
from sparse_aasist.report.text import NONE, listed, mean, percent
from sparse_aasist.sweep.collect import Configuration


def against_k(facts: Facts) -> Section:
    """Draw EER and minDCF against k."""
    splits = facts.splits
    drawn = picture(
        "against-k",
        (3.9 * len(splits) + 0.8, 6.2),
        lambda figure: draw_against_k(figure, facts),
        caption="Drawn: EER and minDCF against the number of values kept, one line per width D, "
        "mean over seeds; squares are the dense baselines (k = D), crosses single seeds. Bars: 95 "
        "% intervals over speakers and seeds together (bootstrap, 1,000 resamples), absent with "
        "one speaker. A good model is near 0 everywhere; if sparsity generalised, the lines would "
        "fall to the left on eval. Where bars overlap widely, the order of points says little.",
        alt=f"Lines of EER and minDCF against k on {listed(splits)}, one per width D.",
    )
    trend = (
        "The paper reports that k=50 is best on dev and k=20 on eval at D=320; for D=160 on eval "
        "its digests contradict each other [secondary]. Choosing k by dev is therefore not the "
        "same as quoting its headline."
    )
    return Section("against-k", "Error rates against k", [drawn, Paragraph(trend)])


def by_attack(facts: Facts) -> Section:
    """Draw and list each attack's EER."""
    pairs = _pairs(facts)
    scored = facts.collection.scored
    rows = sum(max(len(_attack_names(facts, s)) for s in scored) for _ in pairs)
    chosen = listed([c.name for _, pair in pairs for c in pair if not c.is_dense])
    drawn = picture(
        "by-attack",
        (3.9 * len(facts.splits) + 0.8, 1.2 + 0.75 * len(pairs) + 0.36 * rows),
        lambda figure: draw_by_attack(figure, facts, pairs),
        caption="Drawn: EER of all bona fide trials against each attack, mean over seeds, crosses "
        "single seeds; for each D the dense model and the sparse one with the lowest mean EER on "
        f"dev ({chosen}). “Seen”: in training. Lines: 95 % intervals over speakers and seeds "
        "(bootstrap, 1,000 resamples). Left of the dashed line (20 %) an attack counts as "
        "detected; beyond 50 % its scores are inverted, as the paper reports for A12. A good model "
        "is near 0 on every attack, unseen ones too.",
        alt=f"Bars of EER by attack on {listed(facts.splits)}, sparse beside dense, by width D.",
    )
    table = Table(
        ("configuration", "split", *_all_attacks(facts)),
        [
            (c.name, split, *_attack_cells(facts, c, split))
            for split in facts.splits
            for c in facts.collection.configurations
        ],
        f"EER in percent, mean over seeds; “{NONE}”: not in the split.",
        words=2,
        folded="Every configuration and attack",
    )
    return Section("by-attack", "Error rates by attack", [drawn, table, *_headline(facts)])


def trade_off(facts: Facts) -> Section:
    """Draw the curves of the chosen run and its counterpart."""
    anchor, title = "trade-off", "Detection error trade-off"
    split = facts.last_split
    pair = [facts.chosen, *([facts.rival] if facts.rival else [])]
    runs = [(facts.best_run(c).name, c.is_dense) for c in pair]
    blocks: list[Block] = []
    if facts.rival is None:
        text = f"No counterpart of {facts.chosen.name} with the same D is finished."
        blocks.append(Paragraph(text))
    if split != "eval":
        reason = facts.collection.unscored["eval"]
        blocks.append(Paragraph(f"Drawn on dev, because {reason}."))
    blocks.append(
        picture(
            "det",
            (5.4, 5.8),
            lambda figure: draw_trade_off(figure, facts.collection.scored[split], runs),
            caption=f"Drawn: bona fide rejected against spoof accepted on {split} at every "
            "threshold, on probit axes, for the run with the lowest EER on dev among the chosen "
            "configuration, and likewise its counterpart of the same D. A good model runs along "
            "the lower left; on the dotted diagonal the errors are equal (EER). Single runs, no "
            "intervals: the grid has those.",
            alt=f"DET curves on {split} of {listed([name for name, _ in runs])}.",
        )
    )
    return Section(anchor, title, blocks)


def by_codec(facts: Facts) -> Section:
    """List the EER by codec, and by attack and codec for the chosen run."""
    anchor, title = "by-codec", "Error rates by codec"
    blocks: list[Block] = []
    for split in facts.splits:
        codecs = sorted({codec_name(t.codec) for t in facts.collection.splits[split].trials})
        if len(codecs) < 2:
            blocks.append(Paragraph(f"All trials of {split} have one codec ({codecs[0]})."))
            continue
        blocks += [_codec_table(facts, split, codecs), _condition_table(facts, split)]
    return Section(anchor, title, blocks)


def _pairs(facts: Facts) -> list[tuple[int, list[Configuration]]]:
    """For each width the best sparse configuration on dev and the dense one, as far as there."""
    widths: dict[int, list[Configuration]] = {}
    for c in facts.collection.configurations:
        widths.setdefault(c.model.dim, []).append(c)
    pairs = []
    for dim, members in sorted(widths.items()):
        kinds = ([c for c in members if c.is_dense is dense] for dense in (False, True))
        best = [min(kind, key=lambda c: facts.of(c, "dev")["eer"]) for kind in kinds if kind]
        pairs.append((dim, best))
    return pairs


def _attack_names(facts: Facts, split: str) -> list[str]:
    run = facts.collection.runs[:1]
    return [row["name"] for row in facts.rows(run, split, "attack")]


def _all_attacks(facts: Facts) -> list[str]:
    return sorted({name for split in facts.splits for name in _attack_names(facts, split)})


def _attack_cells(facts: Facts, configuration: Configuration, split: str) -> list[str]:
    rows = facts.rows(configuration.runs, split, "attack")
    return [
        percent(mean(row["eer"] for row in rows if row["name"] == name))
        for name in _all_attacks(facts)
    ]


def _headline(facts: Facts) -> list[Block]:
    """Say which attacks the analyses compare, and which runs do not detect one of them."""
    blocks: list[Block] = []
    for split, analyses in facts.analyses.items():
        headline = next(iter(analyses.values()))["headline"]
        left = [name for name in _attack_names(facts, split) if name not in headline]
        missed = {
            name: sorted(set(headline) & set(analysis["undetected"]))
            for name, analysis in analyses.items()
        }
        runs = [(name, ", ".join(attacks)) for name, attacks in missed.items() if attacks]
        text = (
            f"On {split} the analyses below compare bona fide speech and {listed(headline)}: the "
            "attacks whose EER is below 20 % in the median run, or all of them where fewer than "
            f"two are. Left out: {listed(left)}. {len(runs)} of {len(analyses)} runs miss one of "
            "the list, so theirs holds attacks that they do not detect."
        )
        blocks.append(Paragraph(text))
        if runs:
            caption = f"Attacks of the list with an EER of 20 % or more on {split}, by run."
            folded = f"Runs that miss an attack on {split}"
            blocks.append(Table(("run", "missed"), runs, caption, words=2, folded=folded))
    return blocks


def _codec_table(facts: Facts, split: str, codecs: list[str]) -> Table:
    rows = []
    for c in sorted(facts.collection.configurations, key=lambda c: (c.model.dim, c.model.kept)):
        found = facts.rows(c.runs, split, "codec")
        cells = [percent(mean(r["eer"] for r in found if r["name"] == name)) for name in codecs]
        rows.append((c.name, *cells))
    return Table(
        ("configuration", *codecs),
        rows,
        f"EER in percent on {split}, bona fide and spoofed trials of one codec; means over seeds, "
        "no intervals. Cells of few trials are coarse.",
    )


def _condition_table(facts: Facts, split: str) -> Table:
    run = facts.best_run(facts.chosen)
    scored = facts.collection.scored[split]
    table = condition_table(scored.split.trials, scored.scores[run.name])
    rows = [
        (name, *map(percent, values)) for name, values in zip(table.rows, table.values, strict=True)
    ]
    return Table(
        ("attack", *table.columns),
        rows,
        f"{run.name} on {split}: EER in percent by attack and codec; “{NONE}”: no such trials.",
        folded=f"Attack by codec on {split}, chosen run",
    )
