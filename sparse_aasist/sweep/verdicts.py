"""The claims of arXiv 2510.05696 put to the runs of a sweep: holds, does not hold, or undecided.

Each test says beforehand what would count against the claim. "Undecided" is the answer wherever
the interval leaves it open, and with few runs it usually does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.model_analysis import RULES
from sparse_aasist.data.protocol import ABSENT, BONAFIDE
from sparse_aasist.evaluation.comparison import Comparison, compare_scores
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.sweep.collect import Collection, Configuration, ScoredSplit
from sparse_aasist.sweep.statistics import rank_test, welch_interval

Outcome = Literal["holds", "does not hold", "undecided"]
Analyses = dict[str, dict[str, Any]]

HOLDS: Outcome = "holds"
FAILS: Outcome = "does not hold"
UNDECIDED: Outcome = "undecided"
MIN_RUNS = 3
"""Of each side: with fewer the spread of training is a guess, and half of such verdicts chance."""


@dataclass(frozen=True)
class Verdict:
    """What a sweep says about one claim.

    claim: in one sentence. where: configurations and split. test: how it was judged.
    detail: the numbers.
    """

    claim: str
    where: str
    outcome: Outcome
    test: str
    detail: str


def judge(collection: Collection, analyses: Analyses) -> list[Verdict]:
    """Judge every claim that the finished runs allow to judge.

    Args:
        collection: the runs.
        analyses: of the same runs on dev.
    """
    verdicts: list[Verdict | None] = []
    for split in reversed(tuple(collection.scored)):
        for sparse, dense in _pairs(collection.configurations):
            verdicts.append(_generalises(collection.scored[split], split, sparse, dense))
    verdicts += _disentangles(collection.configurations, analyses)
    sparse = [c for c in collection.configurations if not c.is_dense]
    verdicts += [_dedicates(c, analyses) for c in sparse]
    verdicts += [_ignores_undetected(c, analyses) for c in sparse]
    return [verdict for verdict in verdicts if verdict is not None]


def _pairs(
    configurations: Sequence[Configuration],
) -> list[tuple[Configuration, Configuration]]:
    """Pair each sparse configuration with the dense one that differs in k alone."""
    dense = {_without_k(c): c for c in configurations if c.is_dense}
    return [
        (c, dense[_without_k(c)])
        for c in configurations
        if not c.is_dense and _without_k(c) in dense
    ]


def _without_k(configuration: Configuration) -> tuple[Any, ...]:
    return configuration.model.dim, configuration.model.sigmoid


def _generalises(
    scored: ScoredSplit, split: str, sparse: Configuration, dense: Configuration
) -> Verdict | None:
    if np.unique(scored.clusters).size < 2:
        return None
    pair = scored.of(sparse), scored.of(dense)
    found = compare_scores(*pair, scored.labels, scored.clusters)
    outcome, text = _sign(found.eer.interval), _numbers(found)
    if outcome != UNDECIDED and min(map(len, pair)) < MIN_RUNS:
        outcome = UNDECIDED
        text += f"; fewer than {MIN_RUNS} runs a side"
    if outcome != UNDECIDED:
        rates = ([compute_metrics(run, scored.labels).eer for run in side] for side in pair)
        difference, *interval = welch_interval(*rates)
        if _sign(tuple(interval)) != outcome:
            outcome = UNDECIDED
            text += f"; by the runs alone {_points(difference, *interval)}"
    if outcome == HOLDS:
        attack, without = _without_one_attack(scored, *pair)
        if without is None or _sign(without.eer.interval) != HOLDS:
            outcome = UNDECIDED
            text += f"; all of the gain may be from {attack}: without it {_difference(without)}"
    return Verdict(
        "TopK generalises better than the dense model: a lower EER",
        f"{sparse.name} against {dense.name}, {split}",
        outcome,
        "paired bootstrap over speakers and runs; holds if the 95 % interval of the difference is "
        "below 0, also without any one attack, does not hold if it is above 0; either way Welch's "
        f"95 % interval over runs must agree, at least {MIN_RUNS} of each",
        text,
    )


def _without_one_attack(
    scored: ScoredSplit, sparse: NDArray[np.float64], dense: NDArray[np.float64]
) -> tuple[str, Comparison | None]:
    """Compare without the attack whose absence leaves least of the gain; None if it is all."""
    spoofed = scored.attacks[scored.labels != BONAFIDE]
    attacks = sorted(set(spoofed.tolist()) - {ABSENT})
    if len(set(spoofed.tolist())) < 2:
        return ", ".join(attacks) or "unnamed attacks", None

    def compare(attack: str, resamples: int) -> Comparison:
        chosen = scored.attacks != attack
        return compare_scores(
            sparse[:, chosen],
            dense[:, chosen],
            scored.labels[chosen],
            scored.clusters[chosen],
            resamples=resamples,
        )

    left = {attack: compare(attack, 1).eer.difference for attack in attacks}
    worst = max(left, key=lambda attack: left[attack])
    return worst, compare(worst, 1000)


def _disentangles(
    configurations: Sequence[Configuration], analyses: Analyses
) -> list[Verdict | None]:
    """Compare every wide sparse configuration with the narrowest dense one of its kind."""
    found = []
    for sparse in (c for c in configurations if not c.is_dense):
        dense = [
            c for c in configurations if c.is_dense and c.model.sigmoid == sparse.model.sigmoid
        ]
        base = min(dense, key=lambda c: c.model.dim, default=sparse)
        if sparse.model.dim > base.model.dim:
            found.append(_more_disentangled(sparse, base, analyses))
    return found


def _more_disentangled(
    sparse: Configuration, dense: Configuration, analyses: Analyses
) -> Verdict | None:
    outcomes, texts = [], []
    for name, read in _READINGS.items():
        sides = [
            [value for run in c.runs if (value := _value(analyses[run.name], read)) is not None]
            for c in (sparse, dense)
        ]
        if any(len(side) < MIN_RUNS for side in sides):
            texts.append(f"{name}: fewer than {MIN_RUNS} runs with a value")
            outcomes.append(UNDECIDED)
            continue
        difference, low, high = welch_interval(*sides)
        texts.append(f"{name} {difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        outcomes.append(HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED)
    outcome = HOLDS if set(outcomes) == {HOLDS} else FAILS if FAILS in outcomes else UNDECIDED
    return Verdict(
        "A wide sparse embedding is more disentangled than a narrow dense one",
        f"{sparse.name} against {dense.name}, dev",
        outcome,
        "difference of means over runs, Welch's 95 % interval, of four readings that can be "
        "compared between widths: minus ln effective dimensions per factor (completeness without "
        "ln D), as it is and less its null, which sparsity lowers by itself; MIG and modularity "
        "less their null means; holds if all rise, does not hold if one falls",
        "; ".join(texts),
    )


def _concentration(found: dict[str, Any]) -> float | None:
    """Completeness that does not contain ln D: minus the logarithm of the effective dimensions."""
    dims = found["effective_dims_corrected"]["mean"]["value"]
    return None if dims is None else -math.log(dims)


def _concentration_above_null(found: dict[str, Any]) -> float | None:
    level = found["effective_dims_corrected"]["mean"]
    if level["value"] is None or level["null_mean"] is None:
        return None
    return math.log(level["null_mean"] / level["value"])


def _gap(found: dict[str, Any]) -> float | None:
    return _above_null(found["mig"]["mean"])


def _modularity(found: dict[str, Any]) -> float | None:
    # The plain mean over dimensions is diluted by those that pass the limit by chance.
    return _above_null(found["modularity_rm"]["weighted_mean"])


_READINGS = {
    "-ln effective dimensions": _concentration,
    "the same less its null": _concentration_above_null,
    "MIG": _gap,
    "modularity (R&M)": _modularity,
}


def _value(
    analysis: dict[str, Any], read: Callable[[dict[str, Any]], float | None]
) -> float | None:
    found = analysis["attacks"][RULES[0]]
    return read(found) if found else None


def _above_null(level: dict[str, float | None]) -> float | None:
    if level["value"] is None or level["null_mean"] is None:
        return None
    return level["value"] - level["null_mean"]


def _dedicates(configuration: Configuration, analyses: Analyses) -> Verdict | None:
    from scipy.stats import binomtest

    found = [analyses[run.name]["dedicated"] or {} for run in configuration.runs]
    attacks = sorted({attack for run in found for attack in run})
    # One attack has nothing to be told from.
    if len(attacks) < 2:
        return None
    # Runs see the same attacks, so an attack counts once: by the majority of the runs.
    cases = [np.mean([run[a]["causal"] for run in found if a in run]) > 0.5 for a in attacks]
    share = binomtest(sum(cases), len(cases)).proportion_ci(0.95, method="wilson")
    outcome = HOLDS if share.low > 0.5 else FAILS if share.high < 0.5 else UNDECIDED
    return Verdict(
        "Single dimensions encode single attacks",
        f"{configuration.name}, dev",
        outcome,
        "share of attacks whose best dimension on one half of the trials is above the null and "
        "strongest for the same attack on the other half, and moves that attack's EER most when "
        "silenced, in most runs; holds if Wilson's 95 % interval over attacks is above one half, "
        "does not hold if it is below",
        f"{sum(cases)} of {len(cases)} attacks, share {np.mean(cases):.2f} "
        f"[{share.low:.2f}, {share.high:.2f}], {len(found)} runs",
    )


def _ignores_undetected(configuration: Configuration, analyses: Analyses) -> Verdict | None:
    pairs = [_rates_and_shares(analyses[run.name]) for run in configuration.runs]
    usable = [pair for pair in pairs if pair is not None]
    # Fewer attacks than four have too few orders for any of them to be rare.
    if not usable or usable[0].shape[1] < 4:
        return None
    rho, p_value = rank_test(usable)
    outcome = UNDECIDED
    if p_value < 0.05:
        outcome = HOLDS if rho < 0 else FAILS
    return Verdict(
        "Attacks that are not detected are not encoded",
        f"{configuration.name}, dev",
        outcome,
        "Spearman's rho between an attack's EER and the largest share of its entropy in one "
        "dimension (less the null), mean over runs; holds if it is negative, does not hold if it "
        "is positive, with p < 0.05 when attacks are permuted, the same for all runs",
        f"rho {rho:+.2f}, p {p_value:.3f}, {usable[0].shape[1]} attacks, {len(usable)} runs",
    )


def _rates_and_shares(analysis: dict[str, Any]) -> NDArray[np.float64] | None:
    """Return (2, attacks): EER and largest share less the null, of attacks with enough trials."""
    found = analysis["all_attacks"]
    if not found:
        return None
    rates = analysis["detected"] | analysis["undetected"]
    corrected = np.array(found["nmi"]) - np.array(found["null_mean"])
    columns = [i for i, attack in enumerate(found["factors"]) if attack in rates]
    names = [found["factors"][column] for column in columns]
    return np.array([[rates[name] for name in names], corrected[:, columns].max(axis=0)])


def _sign(interval: tuple[float, float]) -> Outcome:
    low, high = interval
    return HOLDS if high < 0 else FAILS if low > 0 else UNDECIDED


def _numbers(found: Comparison) -> str:
    return (
        f"EER {100 * found.eer.a:.2f} % against {100 * found.eer.b:.2f} %, "
        f"{_difference(found)}, p {found.eer.p_value:.3f}, "
        f"{found.n_runs_a} against {found.n_runs_b} runs, {found.n_speakers} speakers"
    )


def _difference(found: Comparison | None) -> str:
    return (
        "nothing is left" if found is None else _points(found.eer.difference, *found.eer.interval)
    )


def _points(difference: float, low: float, high: float) -> str:
    return f"difference {100 * difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
