"""Ops of the model: each a function, its plain PyTorch reference, and compiled kernels if built."""

from __future__ import annotations

from sparse_aasist.ops._backend import backend_report
from sparse_aasist.ops.topk_activation import (
    topk_activation,
    topk_activation_reference,
    topk_mask,
)

__all__ = ["backend_report", "topk_activation", "topk_activation_reference", "topk_mask"]
