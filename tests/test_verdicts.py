"""Verdicts on made-up runs whose answer is known, and the tables that stand beside them."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparse_aasist.models import AASISTConfig
from sparse_aasist.sweep.collect import Configuration, ScoredSplit
from sparse_aasist.sweep.verdicts import FAILS, HOLDS, UNDECIDED, judge, rank_test, welch_interval

SPEAKERS, PER_SPEAKER = 40, 6
ATTACKS = np.tile(["bonafide", "bonafide", "A01", "A02", "A03", "A04"], SPEAKERS)
LABELS = (ATTACKS == "bonafide").astype(np.int64)
CLUSTERS = np.repeat(np.arange(SPEAKERS), PER_SPEAKER)


def configuration(dim, k, seeds=3):
    model = AASISTConfig(dim=dim, k=k)
    name = f"dim{dim}_k{k}"
    runs = tuple(SimpleNamespace(name=f"{name}_seed{seed}") for seed in range(seeds))
    return Configuration(name, model, runs, ())


def scores(margins, seed):
    """Draw scores whose classes are `margins[attack]` apart; unnamed attacks are 2 apart."""
    rng = np.random.default_rng(seed)
    distance = np.array([margins.get(attack, 2.0) for attack in ATTACKS])
    return np.where(LABELS == 1, 0.0, -distance) + rng.standard_normal(ATTACKS.size)


def collection(*pairs):
    """Make a collection of eval scores alone from (configuration, margins)."""
    found = {
        run.name: scores(margins, [number, seed])
        for number, (c, margins) in enumerate(pairs)
        for seed, run in enumerate(c.runs)
    }
    scored = ScoredSplit(None, LABELS, CLUSTERS, ATTACKS, found)
    return SimpleNamespace(configurations=tuple(c for c, _ in pairs), scored={"eval": scored})


def analysis(level=0.0, causal=(), rates=None, shares=None):
    """Make an analysis with one level above the null, dedicated dims, EERs and shares."""
    means = {"value": 0.2 + level, "null_mean": 0.2}
    scores = ("completeness_corrected", "mig", "modularity_rm")
    rates = rates or {"A01": 0.1, "A02": 0.2, "A03": 0.3, "A04": 0.4}
    shares = shares or [0.1, 0.1, 0.1, 0.1]
    return {
        "attacks": {"equal_width": {s: {"mean": means, "weighted_mean": means} for s in scores}},
        "all_attacks": {
            "factors": [*rates, "bonafide"],
            "nmi": [[*shares, 0.9], [0.0] * (len(rates) + 1)],
            "null_mean": [[0.0] * (len(rates) + 1)] * 2,
        },
        "detected": {},
        "undetected": rates,
        "dedicated": {f"A0{i}": {"causal": value} for i, value in enumerate(causal)},
    }


def verdict(claim, found):
    (match,) = [v for v in found if v.claim.startswith(claim)]
    return match


def judged(sparse_margins, dense_margins=None):
    sparse, dense = configuration(320, 20), configuration(320, 320)
    runs = [run.name for c in (sparse, dense) for run in c.runs]
    analyses = {name: analysis() for name in runs}
    found = judge(collection((sparse, sparse_margins), (dense, dense_margins or {})), analyses)
    return verdict("TopK generalises", found)


EASIER = {"A01": 5.0, "A02": 5.0, "A03": 5.0, "A04": 5.0}


def test_a_lower_error_on_all_attacks_holds_and_a_higher_one_does_not():
    assert judged(EASIER).outcome == HOLDS
    assert judged({}, EASIER).outcome == FAILS
    assert judged({}).outcome == UNDECIDED


def test_the_numbers_in_a_verdict_are_those_of_the_scores():
    from sparse_aasist.evaluation import compute_metrics

    found = judged(EASIER)
    sparse = [compute_metrics(scores(EASIER, [0, seed]), LABELS).eer for seed in range(3)]
    dense = [compute_metrics(scores({}, [1, seed]), LABELS).eer for seed in range(3)]
    expected = f"EER {100 * np.mean(sparse):.2f} % against {100 * np.mean(dense):.2f} %"
    assert found.detail.startswith(expected)
    assert "3 against 3 runs, 40 speakers" in found.detail


def test_a_gain_from_one_attack_alone_is_no_generalisation():
    one = {"A01": 8.0, "A02": 2.0, "A03": 2.0, "A04": 2.0}
    hard = {"A01": 0.0, "A02": 2.0, "A03": 2.0, "A04": 2.0}
    found = judged(one, hard)
    assert found.outcome == UNDECIDED and "the gain comes from A01" in found.detail


def test_one_speaker_gives_no_verdict_instead_of_a_false_one():
    sparse, dense = configuration(320, 20), configuration(320, 320)
    made = collection((sparse, EASIER), (dense, {}))
    made.scored["eval"].clusters[:] = 0
    analyses = {run.name: analysis() for c in (sparse, dense) for run in c.runs}
    assert not [v for v in judge(made, analyses) if v.claim.startswith("TopK")]


@pytest.mark.parametrize(
    ("levels", "outcome"),
    [
        ((0.30, 0.31, 0.32), HOLDS),
        ((-0.30, -0.31, -0.32), FAILS),
        ((-0.3, 0.0, 0.3), UNDECIDED),
        ((0.3,), UNDECIDED),
    ],
)
def test_disentanglement_is_judged_above_the_null_over_runs(levels, outcome):
    sparse = configuration(320, 20, seeds=len(levels))
    dense = configuration(160, 160)
    analyses = {run.name: analysis(level=0.01 * i) for i, run in enumerate(dense.runs)}
    analyses |= {run.name: analysis(level) for run, level in zip(sparse.runs, levels, strict=True)}
    found = judge(collection((sparse, {}), (dense, {})), analyses)
    assert verdict("A wide sparse", found).outcome == outcome


def test_one_falling_metric_is_enough_against_disentanglement():
    sparse, dense = configuration(320, 20), configuration(160, 160)
    analyses = {run.name: analysis(0.01 * i) for i, run in enumerate(dense.runs)}
    for i, run in enumerate(sparse.runs):
        analyses[run.name] = analysis(0.3 + 0.01 * i)
        falling = {"value": 0.2 - 0.3 - 0.01 * i, "null_mean": 0.2}
        analyses[run.name]["attacks"]["equal_width"]["mig"] = {"mean": falling}
    found = verdict("A wide sparse", judge(collection((sparse, {}), (dense, {})), analyses))
    assert found.outcome == FAILS


@pytest.mark.parametrize(
    ("causal", "outcome"),
    [
        ([(1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)], HOLDS),
        ([(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 1, 0)], FAILS),
        ([(1, 1, 1, 1), (0, 0, 0, 0), (1, 0, 1, 0)], UNDECIDED),
        ([(1,), (1,), (1,)], UNDECIDED),
    ],
)
def test_single_dimensions_are_judged_by_the_share_of_dedicated_ones(causal, outcome):
    sparse = configuration(320, 20)
    analyses = {
        run.name: analysis(causal=[bool(x) for x in row])
        for run, row in zip(sparse.runs, causal, strict=True)
    }
    found = verdict("Single dimensions", judge(collection((sparse, {})), analyses))
    assert found.outcome == outcome
    assert f"share {np.mean(causal):.2f}" in found.detail


def test_undetected_attacks_are_judged_by_the_rank_of_their_information():
    sparse = configuration(320, 20)
    rates = {f"A{i:02d}": i / 10 for i in range(1, 6)}

    def outcome(shares):
        analyses = {run.name: analysis(rates=rates, shares=shares) for run in sparse.runs}
        return verdict("Attacks that", judge(collection((sparse, {})), analyses)).outcome

    assert outcome([0.5, 0.4, 0.3, 0.2, 0.1]) == HOLDS
    assert outcome([0.1, 0.2, 0.3, 0.4, 0.5]) == FAILS
    # 2 of the 120 orders are as extreme as the two above, 16 as extreme as this one.
    assert outcome([0.4, 0.5, 0.3, 0.1, 0.2]) == UNDECIDED


def test_rank_test_is_spearmans_for_one_run_and_counts_cases_once_for_many():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 7))
    rho, p_value = rank_test([np.stack((x, y))])
    assert rho == pytest.approx(spearmanr(x, y).statistic)
    orders = [spearmanr(x, y[list(order)]).statistic for order in permutations(range(7))]
    assert p_value == pytest.approx(np.mean(np.abs(orders) >= abs(rho) - 1e-12))
    assert rank_test([np.stack((x, y))] * 5) == pytest.approx((rho, p_value))
    constant = np.stack((x, np.ones(7)))
    assert rank_test([constant]) == (0.0, 1.0)


def test_rank_test_of_many_cases_finds_what_is_there_and_no_more():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(20)
    assert rank_test([np.stack((x, x))] * 2) == pytest.approx((1.0, 1e-4))
    # Under the null p is uniform: at most 5 % of tests are below 0.05, up to chance.
    runs = [rank_test([rng.standard_normal((2, 9))])[1] < 0.05 for _ in range(60)]
    assert np.mean(runs) < 0.15


def test_welch_interval_is_the_textbook_one():
    # Equal variances and sizes: t with n - 1 + n - 1 degrees of freedom, t(0.975, 4) = 2.776445.
    difference, low, high = welch_interval([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
    reach = 2.776445 * np.sqrt(2 / 3)
    assert (difference, low, high) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach), abs=1e-5)
    assert welch_interval([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0, 1.0)
