"""All readings of one trained model on one split, as plain values: the analysis file of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_aasist.analysis.attack_filter import detected_attacks
from sparse_aasist.analysis.disentanglement import Disentanglement, disentangle
from sparse_aasist.analysis.factors import MIN_PER_CLASS, Factor, attack_factor, other_factors
from sparse_aasist.analysis.held_out import dedicated_dimensions
from sparse_aasist.analysis.intervention import Intervention, agreement, intervene
from sparse_aasist.data.protocol import ABSENT, SPOOF, Trial
from sparse_aasist.embeddings import Embeddings
from sparse_aasist.errors import NothingToMeasureError, SparseAasistError
from sparse_aasist.evaluation.trials import check_trials
from sparse_aasist.files import write_text

RULES = ("equal_width", "zero_aware", "on_off")
"""Of binning; the first is the headline."""
BLOCKS = ("T_max", "T_avg", "S_max", "S_avg", "master")
"""Of the embedding, equally wide; upstream's order."""


def analyse(
    embeddings: Embeddings,
    trials: Sequence[Trial],
    scores: ArrayLike,
    *,
    attacks: Sequence[str] | None = None,
    acoustics: Mapping[str, ArrayLike] | None = None,
    seed: int = 1234,
) -> dict[str, Any]:
    """Measure what the dimensions of one model encode, and what each of them decides.

    Args:
        embeddings: of the trials, in their order, with the head.
        trials: of one split, with labels.
        scores: (N,) of the same trials, higher = bona fide.
        attacks: the attacks of the headline, so that models are compared on the same ones; None
            takes those that this model detects.
        acoustics: for each property (N,), as `measure_split` gives them.
        seed: of the nulls and of the halves.

    Returns:
        Plain values for JSON: usage of the dimensions; detected and undetected attacks with
        their EER; "attacks" by binning rule (the headline attacks), "all_attacks",
        "factors" and those skipped; the intervention, its agreement with the information, and the
        dimensions that a held-out half confirms. None stands for what cannot be computed, with
        the reason under "notes".

    Raises:
        ScoreError: scores, trials and embeddings do not fit together, or labels are withheld.
    """
    values, labels = check_trials(trials, scores)
    names = np.array([trial.attack for trial in trials])
    known = (labels != SPOOF) | (names != ABSENT)
    detected, undetected = detected_attacks(names[known], values[known], labels[known])
    wanted = tuple(detected) if attacks is None else tuple(attacks)
    h = embeddings.embeddings
    notes: list[str] = []

    def measured(what: str, factor: Factor | None, rule: str = RULES[0]) -> Disentanglement | None:
        if factor is None:
            notes.append(f"{what}: fewer than two classes with {MIN_PER_CLASS} trials")
            return None
        try:
            return disentangle(h[factor.rows], factor.labels, rule=rule, seed=seed)
        except NothingToMeasureError as error:
            notes.append(f"{what}: {error}")
            return None

    if acoustics is None:
        notes.append("acoustic factors were not measured")
    every = detected | undetected
    chosen = attack_factor(trials, frozenset(every) - frozenset(wanted))
    by_rule = {rule: measured(f"attacks, {rule}", chosen, rule) for rule in RULES}
    whole = attack_factor(trials)
    all_attacks = measured("all attacks", whole)
    factors, skipped = other_factors(trials, acoustics)
    others = {name: measured(name, factor) for name, factor in factors.items()}
    effects = intervene(h[known], embeddings.delta, embeddings.bias, names[known], labels[known])
    return {
        "usage": _usage(h),
        "detected": detected,
        "undetected": undetected,
        "headline": list(wanted),
        "attacks": {rule: found and found.to_dict() for rule, found in by_rule.items()},
        "all_attacks": all_attacks and all_attacks.to_dict(),
        "factors": {name: found and found.to_dict() for name, found in others.items()},
        "skipped_factors": list(skipped),
        "intervention": effects.to_dict(),
        "agreement": all_attacks and _agreement(all_attacks, effects),
        "dedicated": whole and dedicated_dimensions(h, whole, effects, seed=seed),
        "notes": notes,
    }


_KEYS = {
    *("usage", "detected", "undetected", "headline", "attacks", "all_attacks", "factors"),
    *("skipped_factors", "intervention", "agreement", "dedicated", "notes"),
}


def write_analysis(path: str | os.PathLike[str], analysis: dict[str, Any]) -> None:
    """Write an analysis as JSON, atomically."""
    write_text(path, json.dumps(analysis, allow_nan=False) + "\n")


def read_analysis(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an analysis that `write_analysis` wrote.

    Raises:
        SparseAasistError: the file is missing or damaged; names it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            analysis = json.load(file)
        missing = _KEYS - set(analysis)
        if missing:
            raise ValueError(f"it has no {min(missing)}")
        return analysis
    except (OSError, ValueError, TypeError) as error:
        raise SparseAasistError(
            f"{path}: cannot be read as an analysis ({error}); write it again with "
            "`sparse-aasist analyse`"
        ) from error


def _usage(h: NDArray[np.float32]) -> dict[str, Any]:
    active = (h != 0).mean(axis=0)
    blocks = np.split(active, len(BLOCKS))
    total = float(active.sum()) or 1.0
    return {
        "active_share": [round(share, 6) for share in active.tolist()],
        "never_active": int((active == 0).sum()),
        "share_by_block": {
            name: round(float(block.sum()) / total, 6)
            for name, block in zip(BLOCKS, blocks, strict=True)
        },
    }


def _agreement(found: Disentanglement, effects: Intervention) -> dict[str, Any]:
    shared = [attack for attack in found.factors if attack in effects.attacks]
    columns = [found.factors.index(attack) for attack in shared]
    moved = [effects.attacks.index(attack) for attack in shared]
    shift = effects.silenced - effects.baseline
    pairs = agreement(found.nmi[:, columns], shift[:, moved])
    return {"attacks": shared, "rho": list(pairs.rho), "p_value": list(pairs.p_value)}
