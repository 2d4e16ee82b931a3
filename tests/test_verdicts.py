"""Verdicts on made-up runs whose answer is known, and the tables that stand beside them."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_ind

from sparse_aasist.analysis import disentangle
from sparse_aasist.models import AASISTConfig
from sparse_aasist.sweep.collect import Configuration, ScoredSplit
from sparse_aasist.sweep.statistics import rank_test, welch_interval
from sparse_aasist.sweep.verdicts import FAILS, HOLDS, UNDECIDED, judge

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
    both = {"mean": means, "weighted_mean": means}
    dims = {"mean": {"value": np.exp(-level), "null_mean": 5.0}}
    readings = {"mig": both, "modularity_rm": both, "effective_dims_corrected": dims}
    rates = rates or {"A01": 0.1, "A02": 0.2, "A03": 0.3, "A04": 0.4}
    shares = shares or [0.1, 0.1, 0.1, 0.1]
    return {
        "attacks": {"equal_width": readings},
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
    assert found.outcome == UNDECIDED and "all of the gain may be from A01" in found.detail


def test_the_attack_that_carries_the_gain_is_found_by_leaving_it_out():
    # A01 gains most by itself; without A02, most of the trials, nothing is left of the gain.
    attacks = np.tile(["bonafide", "bonafide", "A01", *["A02"] * 20, "A03", "A03"], SPEAKERS)
    labels = (attacks == "bonafide").astype(np.int64)
    distance = {
        "sparse": {"A01": 6.0, "A02": 2.8, "A03": 0.3},
        "dense": {"A01": 0.0, "A02": 1.0, "A03": 2.5},
    }
    sparse, dense = configuration(320, 20), configuration(320, 320)
    rng = np.random.default_rng(5)
    shared = rng.standard_normal(attacks.size)
    made = {
        run.name: np.array([-distance[kind].get(a, 0.0) for a in attacks])
        + shared
        + rng.standard_normal(attacks.size) / 10
        for kind, c in (("sparse", sparse), ("dense", dense))
        for run in c.runs
    }
    clusters = np.repeat(np.arange(SPEAKERS), attacks.size // SPEAKERS)
    scored = ScoredSplit(None, labels, clusters, attacks, made)
    analyses = {name: analysis() for name in made}
    runs = SimpleNamespace(configurations=(sparse, dense), scored={"eval": scored})
    found = verdict("TopK generalises", judge(runs, analyses))
    assert found.outcome == UNDECIDED and "all of the gain may be from A02" in found.detail


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_runs_decide_nothing(seeds):
    sparse, dense = configuration(320, 20, seeds), configuration(320, 320, seeds)
    analyses = {run.name: analysis() for c in (sparse, dense) for run in c.runs}
    found = judge(collection((sparse, EASIER), (dense, {})), analyses)
    result = verdict("TopK generalises", found)
    assert result.outcome == UNDECIDED and "fewer than 3 runs a side" in result.detail


def test_a_difference_within_the_spread_of_training_is_none():
    sparse, dense = configuration(320, 20), configuration(320, 320)
    made = collection((sparse, {}), (dense, {}))
    # One dense run has failed; three runs cannot tell that from a difference of the kinds.
    bad = dense.runs[0].name
    made.scored["eval"].scores[bad] = -made.scored["eval"].scores[bad]
    analyses = {run.name: analysis() for c in (sparse, dense) for run in c.runs}
    assert verdict("TopK generalises", judge(made, analyses)).outcome == UNDECIDED


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
        ((0.30, 0.31), UNDECIDED),
    ],
)
def test_disentanglement_is_judged_above_the_null_over_runs(levels, outcome):
    sparse = configuration(320, 20, seeds=len(levels))
    dense = configuration(160, 160)
    analyses = {run.name: analysis(level=0.01 * i) for i, run in enumerate(dense.runs)}
    analyses |= {run.name: analysis(level) for run, level in zip(sparse.runs, levels, strict=True)}
    found = judge(collection((sparse, {}), (dense, {})), analyses)
    assert verdict("A wide sparse", found).outcome == outcome


def test_a_concentration_that_noise_has_too_is_no_disentanglement():
    sparse, dense = configuration(320, 20), configuration(160, 160)
    analyses = {run.name: analysis(0.01 * i) for i, run in enumerate(dense.runs)}
    for i, run in enumerate(sparse.runs):
        analyses[run.name] = analysis(0.3 + 0.01 * i)
        # Half as many dimensions carry a factor; of noise in such an embedding, a third as many.
        level = {"value": np.exp(-0.7), "null_mean": 5.0 / 3}
        readings = analyses[run.name]["attacks"]["equal_width"]
        readings["effective_dims_corrected"] = {"mean": level}
    found = verdict("A wide sparse", judge(collection((sparse, {}), (dense, {})), analyses))
    assert found.outcome == FAILS and "the same less its null -0.4" in found.detail


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
    most = np.mean(np.mean(causal, axis=0) > 0.5)
    assert f"share {most:.2f}" in found.detail


def test_one_attack_alone_has_no_dimension_of_its_own():
    sparse = configuration(320, 20)
    analyses = {run.name: analysis(causal=[True]) for run in sparse.runs}
    claims = [v.claim for v in judge(collection((sparse, {})), analyses)]
    assert not any(claim.startswith("Single dimensions") for claim in claims)


def test_dead_dimensions_beside_the_same_ones_are_no_loss_of_disentanglement():
    rng = np.random.default_rng(3)
    labels = np.repeat(["bonafide", "A01", "A02", "A03"], 100)
    narrow, wide = configuration(10, 10), configuration(20, 5)
    analyses = {}
    for seed in range(3):
        h = rng.standard_normal((400, 10))
        h[np.arange(400), np.repeat([0, 3, 5, 8], 100)] += 2
        padded = np.concatenate((h, np.zeros((400, 10))), axis=1)
        for c, codes in ((narrow, h), (wide, padded)):
            found = disentangle(codes, labels, seed=seed).to_dict()
            analyses[c.runs[seed].name] = analysis() | {"attacks": {"equal_width": found}}
    found = verdict("A wide sparse", judge(collection((wide, {}), (narrow, {})), analyses))
    assert found.outcome == UNDECIDED
    assert not [part for part in found.detail.split("; ") if " [+" in part or ", -" in part]


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
    unequal = [1.0, 4.0, 2.5, 8.0], [0.5, 0.6]
    expected = ttest_ind(*unequal, equal_var=False).confidence_interval(0.95)
    assert welch_interval(*unequal)[1:] == pytest.approx((expected.low, expected.high))
