"""The analysis of a model on made-up embeddings: what is planted is found, and no more."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparse_aasist.analysis import disentangle
from sparse_aasist.analysis.factors import attack_factor
from sparse_aasist.analysis.held_out import dedicated_dimensions
from sparse_aasist.analysis.intervention import intervene
from sparse_aasist.analysis.model_analysis import BLOCKS, analyse, read_analysis, write_analysis
from sparse_aasist.data.protocol import BONAFIDE, SPOOF, Trial
from sparse_aasist.embeddings import Embeddings
from sparse_aasist.errors import ScoreError, SparseAasistError
from sparse_aasist.evaluation import compute_metrics

DIMS = 20
PER_CLASS = 60
ATTACKS = ("A01", "A02", "A03")
NAMES = np.repeat(["bonafide", *ATTACKS], PER_CLASS)
LABELS = (NAMES == "bonafide").astype(np.int64)
PLANTED = {"A01": 2, "A02": 7, "A03": 13}


def trials(attacks=NAMES):
    return [
        Trial(
            f"S{index % 7}", f"T{index}", "FM"[index % 2], "-", "-", "-", "-", str(attack),
            BONAFIDE if attack == "bonafide" else SPOOF,
        )
        for index, attack in enumerate(attacks)
    ]  # fmt: skip


def made(strength=4.0, seed=0):
    """Make embeddings with a dimension per attack, and a head that reads those."""
    rng = np.random.default_rng(seed)
    h = np.maximum(rng.standard_normal((NAMES.size, DIMS)), 0.0).astype(np.float32)
    weight = rng.standard_normal((2, DIMS)).astype(np.float32) / 20
    for attack, dim in PLANTED.items():
        h[attack == NAMES, dim] += np.float32(strength)
        weight[0, dim] += 1.0
    names = tuple(f"T{index}" for index in range(NAMES.size))
    return Embeddings(names, h, weight, np.array([0.2, 0.1], dtype=np.float32))


def analysed(found, given=None, **options):
    scores = found.embeddings.astype(np.float64) @ found.delta + found.bias
    return analyse(found, given or trials(), scores, **options)


def test_planted_dimensions_are_dedicated_confirmed_and_causal():
    dedicated = analysed(made())["dedicated"]
    assert {attack: entry["dimension"] for attack, entry in dedicated.items()} == PLANTED
    assert all(entry["confirmed"] and entry["causal"] for entry in dedicated.values())


def test_noise_has_no_dedicated_dimension():
    found = [analysed(made(0.0, seed))["dedicated"] for seed in range(5)]
    confirmed = [entry["confirmed"] for run in found for entry in run.values()]
    # The best of 20 dimensions passes its 5 % limit, for the right attack, one time in dozens.
    assert len(confirmed) == 15 and sum(confirmed) <= 2


def test_a_dimension_that_one_half_alone_has_is_not_confirmed():
    found = made(0.0)
    factor = attack_factor(trials())
    order = np.random.default_rng(3).permutation(factor.labels.size)
    order = order[np.argsort(factor.labels[order], kind="stable")]
    chosen_half = np.zeros(NAMES.size, dtype=bool)
    chosen_half[order[::2]] = True
    found.embeddings[chosen_half & (NAMES == "A01"), 5] += 6
    effects = intervene(found.embeddings, found.delta, found.bias, NAMES, LABELS)
    entry = dedicated_dimensions(found.embeddings, factor, effects, seed=3)["A01"]
    assert entry == {"dimension": 5, "confirmed": False, "causal": False}


def test_a_dimension_that_the_head_does_not_read_is_confirmed_but_not_causal():
    found = made()
    found.head_weight[:, PLANTED["A02"]] = 0.5
    entry = analysed(found)["dedicated"]["A02"]
    assert entry == {"dimension": PLANTED["A02"], "confirmed": True, "causal": False}


def test_usage_counts_dimensions_and_blocks():
    found = made()
    found.embeddings[:, [0, 9]] = 0.0
    usage = analysed(found)["usage"]
    active = (found.embeddings != 0).mean(axis=0)
    np.testing.assert_allclose(usage["active_share"], active, atol=1e-6)
    assert usage["never_active"] == 2
    for block, name in enumerate(BLOCKS):
        share = (found.embeddings[:, 4 * block : 4 * block + 4] != 0).sum()
        whole = np.count_nonzero(found.embeddings)
        assert usage["share_by_block"][name] == pytest.approx(share / whole, abs=1e-6)


def test_agreement_pairs_the_information_and_the_effect_of_the_same_attack():
    found = made()
    analysis = analysed(found)
    scores = found.embeddings.astype(np.float64) @ found.delta + found.bias
    for attack, rho in zip(
        *(analysis["agreement"][key] for key in ("attacks", "rho")), strict=True
    ):
        chosen = (attack == NAMES) | (LABELS == 1)

        def eer(values, chosen=chosen):
            return compute_metrics(values[chosen], LABELS[chosen]).eer

        shares = found.embeddings * found.delta
        shift = [abs(eer(scores - shares[:, dim]) - eer(scores)) for dim in range(DIMS)]
        known = disentangle(found.embeddings, NAMES)
        column = known.nmi[:, known.factors.index(attack)]
        assert rho == pytest.approx(spearmanr(column, shift).statistic)
    assert analysis["agreement"]["attacks"] == list(ATTACKS)


def test_detected_attacks_are_the_headline_unless_others_are_named():
    found = made()
    found.head_weight[:, PLANTED["A03"]] = 0.0
    analysis = analysed(found)
    assert set(analysis["detected"]) == {"A01", "A02"} and set(analysis["undetected"]) == {"A03"}
    assert analysis["attacks"]["equal_width"]["factors"] == ["A01", "A02", "bonafide"]
    assert analysis["all_attacks"]["factors"] == [*ATTACKS, "bonafide"]
    named = analysed(found, attacks=["A02", "A03"])
    assert named["headline"] == ["A02", "A03"]
    assert named["attacks"]["on_off"]["factors"] == ["A02", "A03", "bonafide"]


def test_spoofed_trials_without_an_attack_are_no_attack():
    found = made()
    given = trials(np.where(NAMES == "A03", "-", NAMES))
    analysis = analysed(found, given)
    assert set(analysis["detected"] | analysis["undetected"]) == {"A01", "A02"}
    assert analysis["intervention"]["attacks"] == ["A01", "A02"]
    assert analysis["all_attacks"]["factors"] == ["A01", "A02", "bonafide"]


def test_what_cannot_be_measured_is_noted_and_the_rest_is_there():
    found = made()
    few = np.where(np.arange(NAMES.size) % PER_CLASS < 9, NAMES, "bonafide")
    analysis = analysed(found, trials(few))
    assert analysis["all_attacks"] is None and analysis["dedicated"] is None
    assert "all attacks: fewer than two classes with 10 trials" in analysis["notes"]
    assert analysis["factors"]["gender"]["rows"] == np.count_nonzero(few == "bonafide")
    dense = dataclasses.replace(found, embeddings=found.embeddings + np.float32(1e-3))
    notes = analysed(dense)["notes"]
    assert [note for note in notes if note.startswith("attacks, on_off: all 20 dimensions")]


def test_faults_are_errors_and_not_notes():
    found = made()
    scores = np.zeros(NAMES.size)
    withheld = [dataclasses.replace(t, label=None, attack="-") for t in trials()]
    with pytest.raises(ScoreError, match="labels are missing"):
        analyse(found, withheld, scores)
    found.embeddings[3, 4] = np.nan
    with pytest.raises(SparseAasistError, match=r"embeddings\[3\]"):
        analyse(found, trials(), scores)


def test_an_analysis_is_read_back_as_it_was_and_a_damaged_one_is_named(tmp_path):
    analysis = analysed(made())
    path = tmp_path / "analysis.json"
    write_analysis(path, analysis)
    assert read_analysis(path) == json.loads(json.dumps(analysis))
    for text in (path.read_text()[:-40], '{"intervention": {}}', "[1]"):
        path.write_text(text)
        with pytest.raises(SparseAasistError, match=r"analysis\.json: cannot be read"):
            read_analysis(path)
    with pytest.raises(SparseAasistError, match=r"absent\.json"):
        read_analysis(tmp_path / "absent.json")
