"""Ops of the model: each a function, its plain PyTorch reference, and compiled kernels if built."""

from __future__ import annotations

from sparse_aasist.ops._backend import backend, backend_report
from sparse_aasist.ops.topk_activation import (
    TopkOutput,
    topk_activation,
    topk_activation_reference,
)
from sparse_aasist.ops.topk_linear import TopkLinearOutput, topk_linear, topk_linear_reference

__all__ = [
    "TopkLinearOutput",
    "TopkOutput",
    "backend",
    "backend_report",
    "topk_activation",
    "topk_activation_reference",
    "topk_linear",
    "topk_linear_reference",
]
