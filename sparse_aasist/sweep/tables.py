"""The tables of a sweep: one line per run and condition, one per configuration and condition."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_aasist.evaluation.bootstrap import seed_intervals
from sparse_aasist.evaluation.calibration import Calibration, fit_calibration
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.report import evaluate_trials
from sparse_aasist.evaluation.resampling import METRIC_NAMES
from sparse_aasist.files import write_text
from sparse_aasist.sweep.collect import Collection, Configuration, ScoredSplit

Row = dict[str, Any]


def run_rows(collection: Collection) -> list[Row]:
    """Return one row per run, split and condition (pooled, seen, unseen, each attack and codec).

    Metrics are fractions, Cllr bits; those called calibrated are of the scores after the affine
    calibration fitted on the run's dev scores.
    """
    rows = []
    for configuration in collection.configurations:
        for run in configuration.runs:
            calibration = _calibration(collection, run.name)
            for name, scored in collection.scored.items():
                scores = scored.scores[run.name]
                common = {"run": run.name, **_settings(configuration), "seed": run.config.seed}
                plain, calibrated = (
                    evaluate_trials(
                        scored.split.trials, values, collection.seen_attacks, resamples=0
                    ).rows
                    for values in (scores, calibration.apply(scores))
                )
                for row, after in zip(plain, calibrated, strict=True):
                    rows.append(
                        {
                            **common,
                            "split": name,
                            "group": row.group,
                            "name": row.name,
                            "n_bonafide": row.n_bonafide,
                            "n_spoof": row.n_spoof,
                            **{metric: getattr(row.metrics, metric) for metric in METRIC_NAMES},
                            "calibrated_act_dcf": after.metrics.act_dcf,
                            "calibrated_cllr": after.metrics.cllr,
                        }
                    )
    return rows


def configuration_rows(collection: Collection) -> list[Row]:
    """Return one row per configuration and split: means over seeds with 95 % intervals.

    The intervals are over speakers and runs; None where there is one speaker.
    """
    rows = []
    for configuration in collection.configurations:
        for name, scored in collection.scored.items():
            scores = scored.of(configuration)
            rows.append(
                {
                    "configuration": configuration.name,
                    **_settings(configuration),
                    "split": name,
                    "seeds": len(configuration.runs),
                    "missing_seeds": len(configuration.missing),
                    **_means(scored, scores),
                }
            )
    return rows


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with equal keys as comma-separated text, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _settings(configuration: Configuration) -> Row:
    model = configuration.model
    return {
        "dim": model.dim,
        "k": model.kept,
        "sigmoid": model.sigmoid,
        "topk_by": model.topk_by,
        "topk_order": model.topk_order,
    }


def _calibration(collection: Collection, run: str) -> Calibration:
    dev = collection.scored["dev"]
    return fit_calibration(dev.scores[run], dev.labels)


def _means(scored: ScoredSplit, scores: np.ndarray) -> Row:
    """Return mean, low and high of each metric, and the spread of the EER between seeds."""
    rates = [compute_metrics(row, scored.labels) for row in scores]
    found: Row = {"eer_seed_deviation": None}
    if len(rates) > 1:
        found["eer_seed_deviation"] = float(np.std([rate.eer for rate in rates], ddof=1))
    if np.unique(scored.clusters).size < 2:
        for metric in METRIC_NAMES:
            mean = float(np.mean([getattr(rate, metric) for rate in rates]))
            found |= {metric: mean, f"{metric}_low": None, f"{metric}_high": None}
        return found
    means, intervals = seed_intervals(scores, scored.labels, scored.clusters)
    for metric in METRIC_NAMES:
        low, high = getattr(intervals, metric)
        found |= {metric: getattr(means, metric), f"{metric}_low": low, f"{metric}_high": high}
    return found
