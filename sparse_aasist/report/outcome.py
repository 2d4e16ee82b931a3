"""Sections: what became of the claims, and the table of the grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sparse_aasist.report.content import Block, Claim, Paragraph, Section, Table
from sparse_aasist.report.facts import Facts
from sparse_aasist.report.text import NONE, mean, number, percent, with_interval
from sparse_aasist.sweep.collect import Configuration
from sparse_aasist.sweep.tables import Row
from sparse_aasist.sweep.verdicts import FAILS, HOLDS, UNDECIDED

# arXiv 2510.05696: the EER is in its abstract; the DCF is known from a summary of it only.
_PAPER_EER, _PAPER_DCF = 0.2336, 0.5807


def verdicts(facts: Facts) -> Section:
    """Show every verdict, by claim."""
    found = facts.verdicts
    anchor, title = "verdicts", "What became of the claims"
    if not found:
        text = (
            "No claim could be judged: the tests need a sparse and a dense configuration, trials "
            "of at least two speakers, and attacks with ten trials."
        )
        return Section(anchor, title, [Paragraph(text, loud=True)])
    counts = Counter(verdict.outcome for verdict in found)
    summary = ", ".join(f"{counts[name]} “{name}”" for name in (HOLDS, FAILS, UNDECIDED))
    blocks: list[Block] = [
        Paragraph(
            f"{len(found)} verdicts: {summary}. Each test said beforehand what would count against "
            "its claim. Undecided means that the interval leaves it open at this number of runs, "
            "speakers and trials; it is not a weak yes. The tests are many and not adjusted: of "
            "forty claims without any truth one is expected to hold at 95 %."
        )
    ]
    for claim, test in dict.fromkeys((verdict.claim, verdict.test) for verdict in found):
        findings = [
            (v.where, str(v.outcome), v.detail) for v in found if (v.claim, v.test) == (claim, test)
        ]
        blocks.append(Claim(claim, test, findings))
    return Section(anchor, title, blocks)


def grid(facts: Facts) -> Section:
    """Show all metrics of all configurations, and the published ones beside them."""
    tag = (
        "The paper's EER is from its abstract (read in the source). Its DCF is known from a "
        "third-party summary only [secondary], and which DCF is meant is not stated; it is taken "
        "for the minDCF of track 1 [inferred]. No other cell of its table is known to us. It calls "
        "k=20 of D=320 “95 % of sparsity”; 1 - 20/320 is 93.75 %."
    )
    blocks = [_error_table(facts), Paragraph(tag), _score_table(facts), _seen_table(facts)]
    return Section("grid", "The k x D grid", blocks)


def _error_table(facts: Facts) -> Table:
    corpus = "the same trials" if facts.is_the_papers_corpus else "another corpus"
    paper = (
        "arXiv 2510.05696: D=320, k=20",
        f"eval of ASVspoof5 ({corpus})",
        NONE,
        percent(_PAPER_EER),
        NONE,
        NONE,
        f"{_PAPER_DCF:.4f}",
    )
    return Table(
        ("configuration", "split", "seeds", "EER, %", "SD between seeds", "each seed", "minDCF"),
        [*_each(facts, _error_cells), paper],
        "Error rates: means over the finished seeds; in brackets 95 % intervals over speakers and "
        f"seeds together ({_no_interval(facts)}), of a single seed over speakers only. SD in "
        "percentage points.",
        words=2,
    )


def _score_table(facts: Facts) -> Table:
    return Table(
        (
            "configuration", "split", "actDCF", "Cllr, bits", "actDCF calibrated",
            "Cllr calibrated", "zeros, %", "dimensions alive",
        ),
        _each(facts, _score_cells),
        "Scores as log likelihood ratios, and sparsity: means over seeds, intervals as above. "
        "Calibrated: after an affine map fitted to dev, so on dev it is optimistic. Zeros: exact "
        "zeros in the embeddings, measured. Alive: active on at least one trial of the split.",
        words=2,
    )  # fmt: skip


def _each(
    facts: Facts, cells: Callable[[Facts, Configuration, str], tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Return a row per split and configuration."""
    return [
        (configuration.name, split, *cells(facts, configuration, split))
        for split in facts.splits
        for configuration in facts.collection.configurations
    ]


def _error_cells(facts: Facts, configuration: Configuration, split: str) -> tuple[str, ...]:
    row = facts.of(configuration, split)
    pooled = facts.rows(configuration.runs, split, "pooled")
    return (
        str(row["seeds"]),
        _interval_cell(row, "eer", 100, 2),
        percent(row["eer_seed_deviation"]),
        ", ".join(percent(run["eer"], 1) for run in pooled),
        _interval_cell(row, "min_dcf", 1, 3),
    )


def _score_cells(facts: Facts, configuration: Configuration, split: str) -> tuple[str, ...]:
    row = facts.of(configuration, split)
    pooled = facts.rows(configuration.runs, split, "pooled")
    zeros = [run.read_summary()["zero_fraction"][split] for run in configuration.runs]
    usages = [analysis["usage"] for analysis in facts.analyses_of(configuration, split)]
    return (
        _interval_cell(row, "act_dcf", 1, 3),
        _interval_cell(row, "cllr", 1, 3),
        number(mean(run["calibrated_act_dcf"] for run in pooled)),
        number(mean(run["calibrated_cllr"] for run in pooled)),
        percent(mean(zeros)),
        number(mean(configuration.model.dim - usage["never_active"] for usage in usages), 1),
    )


def _interval_cell(row: Row, metric: str, factor: float, digits: int) -> str:
    bounds = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
    return with_interval(*bounds, factor, digits)


def _no_interval(facts: Facts) -> str:
    lone = [
        split
        for split in facts.splits
        if facts.of(facts.collection.configurations[0], split)["eer_low"] is None
    ]
    if lone:
        return f"none on {' and '.join(lone)}, whose trials are of one speaker"
    return "bootstrap, 1,000 resamples"


def _seen_table(facts: Facts) -> Table:
    return Table(
        ("configuration", "split", "EER seen, %", "minDCF seen", "EER unseen, %", "minDCF unseen"),
        _each(facts, _seen_cells),
        "Attacks of the training split (seen) and others (unseen), each against all bona fide "
        "trials; means over seeds. A detector that generalises is as good on the unseen ones. "
        f"“{NONE}”: the split has no such attack.",
        words=2,
        folded="Seen and unseen attacks",
    )


def _seen_cells(facts: Facts, configuration: Configuration, split: str) -> tuple[str, ...]:
    cells = []
    for group in ("seen attacks", "unseen attacks"):
        found = facts.rows(configuration.runs, split, group)
        cells.append(percent(mean(row["eer"] for row in found)))
        cells.append(number(mean(row["min_dcf"] for row in found)))
    return tuple(cells)
