"""The detector: sinc front end, residual encoder, graph attention, sparse head."""

from sparse_aasist.models.aasist import AASIST, Output
from sparse_aasist.models.config import AASISTConfig

__all__ = ["AASIST", "AASISTConfig", "Output"]
