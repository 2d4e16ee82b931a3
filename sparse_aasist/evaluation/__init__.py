"""Scores to figures of merit: official metrics, score files, reports and pictures; no torch."""

from sparse_aasist.evaluation.figures import plot
from sparse_aasist.evaluation.metrics import Metrics, compute_metrics, error_rates
from sparse_aasist.evaluation.report import Evaluation, ReportRow, evaluate_trials, print_table
from sparse_aasist.evaluation.scores import match_scores, read_scores, write_scores

__all__ = [
    "Evaluation",
    "Metrics",
    "ReportRow",
    "compute_metrics",
    "error_rates",
    "evaluate_trials",
    "match_scores",
    "plot",
    "print_table",
    "read_scores",
    "write_scores",
]
