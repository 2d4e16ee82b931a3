"""Scores to figures of merit: official metrics, score files, tests, reports, pictures; no torch."""

from sparse_aasist.evaluation.bootstrap import (
    Intervals,
    bootstrap_intervals,
    seed_intervals,
    speaker_clusters,
)
from sparse_aasist.evaluation.calibration import Calibration, fit_calibration, probability
from sparse_aasist.evaluation.comparison import (
    Comparison,
    Difference,
    compare_files,
    compare_scores,
)
from sparse_aasist.evaluation.conditions import ConditionTable, condition_table
from sparse_aasist.evaluation.figures import plot
from sparse_aasist.evaluation.metrics import Metrics, compute_metrics, eer_rocch, error_rates
from sparse_aasist.evaluation.report import Evaluation, ReportRow, evaluate_trials, print_table
from sparse_aasist.evaluation.scores import match_scores, read_scores, write_scores

__all__ = [
    "Calibration",
    "Comparison",
    "ConditionTable",
    "Difference",
    "Evaluation",
    "Intervals",
    "Metrics",
    "ReportRow",
    "bootstrap_intervals",
    "compare_files",
    "compare_scores",
    "compute_metrics",
    "condition_table",
    "eer_rocch",
    "error_rates",
    "evaluate_trials",
    "fit_calibration",
    "match_scores",
    "plot",
    "print_table",
    "probability",
    "read_scores",
    "seed_intervals",
    "speaker_clusters",
    "write_scores",
]
