"""Ops of the model: each a function, its plain PyTorch reference, and compiled kernels if built."""

from __future__ import annotations

from sparse_aasist.ops._backend import backend, backend_report
from sparse_aasist.ops.front_end import front_end, front_end_reference
from sparse_aasist.ops.graph_attention import (
    HeteroAttentionOutput,
    Master,
    graph_attention,
    graph_attention_reference,
    hetero_graph_attention,
    hetero_graph_attention_reference,
)
from sparse_aasist.ops.graph_pool import graph_pool, graph_pool_reference
from sparse_aasist.ops.residual_block import (
    Convolution,
    Normalisation,
    residual_block,
    residual_block_reference,
)
from sparse_aasist.ops.residual_block_training import (
    ResidualTrainingOutput,
    residual_block_training,
    residual_block_training_reference,
)
from sparse_aasist.ops.topk_activation import (
    TopkOutput,
    topk_activation,
    topk_activation_reference,
)
from sparse_aasist.ops.topk_linear import TopkLinearOutput, topk_linear, topk_linear_reference

__all__ = [
    "Convolution",
    "HeteroAttentionOutput",
    "Master",
    "Normalisation",
    "ResidualTrainingOutput",
    "TopkLinearOutput",
    "TopkOutput",
    "backend",
    "backend_report",
    "front_end",
    "front_end_reference",
    "graph_attention",
    "graph_attention_reference",
    "graph_pool",
    "graph_pool_reference",
    "hetero_graph_attention",
    "hetero_graph_attention_reference",
    "residual_block",
    "residual_block_reference",
    "residual_block_training",
    "residual_block_training_reference",
    "topk_activation",
    "topk_activation_reference",
    "topk_linear",
    "topk_linear_reference",
]
