"""What the embedding knows: information on classes, disentanglement, causal checks; no torch."""

from sparse_aasist.analysis.attack_filter import detected_attacks
from sparse_aasist.analysis.disentanglement import Disentanglement, disentangle
from sparse_aasist.analysis.information import exceedance
from sparse_aasist.analysis.intervention import Agreement, Intervention, agreement, intervene

__all__ = [
    "Agreement",
    "Disentanglement",
    "Intervention",
    "agreement",
    "detected_attacks",
    "disentangle",
    "exceedance",
    "intervene",
]
