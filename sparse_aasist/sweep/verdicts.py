"""The claims of arXiv 2510.05696 put to the runs of a sweep: holds, does not hold, or undecided.

Each test says beforehand what would count against the claim. "Undecided" is the answer wherever
the interval leaves it open, and with few runs it usually does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.evaluation.comparison import Comparison, compare_scores
from sparse_aasist.sweep.collect import Collection, Configuration, ScoredSplit

Outcome = Literal["holds", "does not hold", "undecided"]
Analyses = dict[str, dict[str, Any]]

HOLDS: Outcome = "holds"
FAILS: Outcome = "does not hold"
UNDECIDED: Outcome = "undecided"
RULE = "equal_width"


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

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


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
    pairs = scored.of(sparse), scored.of(dense)
    found = compare_scores(*pairs, scored.labels, scored.clusters)
    difference = found.eer
    outcome = _sign(difference.interval)
    text = _numbers(found)
    if outcome == HOLDS:
        best, without = _without_best_attack(scored, *pairs)
        if best is not None and _sign(without.eer.interval) != HOLDS:
            outcome = UNDECIDED
            text += f"; the gain comes from {best}: without it {_difference(without)}"
    return Verdict(
        "TopK generalises better than the dense model: a lower EER",
        f"{sparse.name} against {dense.name}, {split}",
        outcome,
        "paired bootstrap over speakers and runs; holds if the 95 % interval of the difference is "
        "below 0, also without the attack that gains most",
        text,
    )


def _without_best_attack(
    scored: ScoredSplit, sparse: NDArray[np.float64], dense: NDArray[np.float64]
) -> tuple[str | None, Comparison | None]:
    """Compare without the attack whose EER falls most."""
    bonafide = scored.labels == 1
    attacks = np.unique(scored.attacks[~bonafide]).tolist()
    if len(attacks) < 2:
        return None, None

    def compare(chosen: NDArray[np.bool_], resamples: int) -> Comparison:
        return compare_scores(
            sparse[:, chosen],
            dense[:, chosen],
            scored.labels[chosen],
            scored.clusters[chosen],
            resamples=resamples,
        )

    gains = {a: compare(bonafide | (scored.attacks == a), 1).eer.difference for a in attacks}
    best = min(gains, key=lambda attack: gains[attack])
    return best, compare(scored.attacks != best, 1000)


def _disentangles(
    configurations: Sequence[Configuration], analyses: Analyses
) -> list[Verdict | None]:
    """Compare every wide sparse configuration with the narrowest dense one."""
    dense = [c for c in configurations if c.is_dense]
    if not dense:
        return []
    base = min(dense, key=lambda c: c.model.dim)
    wide = [c for c in configurations if not c.is_dense and c.model.dim > base.model.dim]
    return [_more_disentangled(c, base, analyses) for c in wide]


def _more_disentangled(
    sparse: Configuration, dense: Configuration, analyses: Analyses
) -> Verdict | None:
    outcomes, texts = [], []
    for name, key, mean in (
        ("completeness", "completeness_corrected", "mean"),
        ("MIG", "mig", "mean"),
        # The plain mean over dimensions is diluted by those that pass the limit by chance.
        ("modularity (R&M)", "modularity_rm", "weighted_mean"),
    ):
        sides = [_above_null(c, analyses, key, mean) for c in (sparse, dense)]
        if any(len(side) < 2 for side in sides):
            texts.append(f"{name}: fewer than two runs with a value")
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
        "difference of means over runs of value minus null mean, Welch's 95 % interval; holds if "
        "all three metrics rise, does not hold if one falls",
        "; ".join(texts),
    )


def _above_null(
    configuration: Configuration, analyses: Analyses, key: str, mean: str
) -> list[float]:
    values = []
    for run in configuration.runs:
        found = analyses[run.name]["attacks"][RULE]
        level = found[key][mean] if found else {"value": None, "null_mean": None}
        if level["value"] is not None and level["null_mean"] is not None:
            values.append(level["value"] - level["null_mean"])
    return values


def _dedicates(configuration: Configuration, analyses: Analyses) -> Verdict | None:
    from scipy.stats import binomtest

    found = [analyses[run.name]["dedicated"] for run in configuration.runs]
    cases = [entry["causal"] for attacks in found if attacks for entry in attacks.values()]
    if not cases:
        return None
    share = binomtest(sum(cases), len(cases)).proportion_ci(0.95, method="wilson")
    outcome = HOLDS if share.low > 0.5 else FAILS if share.high < 0.5 else UNDECIDED
    return Verdict(
        "Single dimensions encode single attacks",
        f"{configuration.name}, dev",
        outcome,
        "share of attacks whose best dimension on one half of the trials is above the null and "
        "strongest for the same attack on the other half, and moves that attack's EER most when "
        "silenced; holds if Wilson's 95 % interval over attacks and runs is above one half",
        f"{sum(cases)} of {len(cases)}, share {np.mean(cases):.2f} "
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
        "dimension (less the null), mean over runs; holds if it is negative with p < 0.05 when "
        "attacks are permuted, the same for all runs",
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


def rank_test(runs: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Test whether two quantities of the same cases rise together, over several runs.

    The statistic is the mean over runs of Spearman's rho (0 where a quantity is constant). Runs
    see the same cases, so the permutation is over cases and the same for all runs.

    Args:
        runs: (2, cases) each, the cases in the same order; at least two cases.

    Returns:
        The mean rho and its two-sided p-value, exact for up to seven cases.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.stack(runs), axis=2)
    ranks -= ranks.mean(axis=2, keepdims=True)
    size = np.sqrt((ranks**2).sum(axis=2, keepdims=True))
    ranks /= np.where(size > 0, size, 1.0)
    cases = ranks.shape[2]
    if cases <= 7:
        orders = np.array(list(itertools.permutations(range(cases))))
    else:
        rng = np.random.default_rng(1234)
        orders = np.array([range(cases), *(rng.permutation(cases) for _ in range(9999))])
    # The first order is the observed one.
    means = np.einsum("rc,roc->o", ranks[:, 0], ranks[:, 1][:, orders]) / len(runs)
    extreme = np.abs(means) >= abs(means[0]) - 1e-12
    return float(means[0]), float(extreme.mean())


def welch_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return mean(a) - mean(b) and its 95 % interval by Welch's t with unequal variances.

    Args:
        a, b: at least two values each.
    """
    from scipy.stats import ttest_ind

    difference = float(np.mean(a) - np.mean(b))
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return difference, difference, difference
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return difference, float(low), float(high)


def _sign(interval: tuple[float, float]) -> Outcome:
    low, high = interval
    return HOLDS if high < 0 else FAILS if low > 0 else UNDECIDED


def _numbers(found: Comparison) -> str:
    return (
        f"EER {100 * found.eer.a:.2f} % against {100 * found.eer.b:.2f} %, "
        f"{_difference(found)}, p {found.eer.p_value:.3f}, "
        f"{found.n_runs_a} against {found.n_runs_b} runs, {found.n_speakers} speakers"
    )


def _difference(found: Comparison) -> str:
    low, high = found.eer.interval
    return f"difference {100 * found.eer.difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
