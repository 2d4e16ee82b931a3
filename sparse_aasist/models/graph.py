"""Graph attention, heterogeneous graph attention with a master node, and graph pooling.

Source: clovaai/aasist, models/AASIST.py (GraphAttentionLayer, HtrgGraphAttentionLayer, GraphPool);
AASIST is arXiv 2110.01200. Attribute names are upstream's, because state dicts carry them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_aasist.ops import Master, graph_attention, graph_pool, hetero_graph_attention

INPUT_DROPOUT = 0.2
POOL_DROPOUT = 0.3


class GraphAttention(nn.Module):
    """Attend between all nodes of one graph with a score of their elementwise product.

    s_ij = v . tanh(W (x_i * x_j) + b) / temperature; p_i = softmax_j(s_i); then
    SELU(BN(A sum_j p_ij x_j + C x_i)).

    Args:
        dim_in: node width D.
        dim_out: node width O after the layer.
        temperature: divisor of the scores.
    """

    def __init__(self, dim_in: int, dim_out: int, temperature: float) -> None:
        super().__init__()
        self.att_proj = nn.Linear(dim_in, dim_out)
        self.att_weight = _attention_vector(dim_out)
        self.proj_with_att = nn.Linear(dim_in, dim_out)
        self.proj_without_att = nn.Linear(dim_in, dim_out)
        self.bn = nn.BatchNorm1d(dim_out)
        self.input_drop = nn.Dropout(INPUT_DROPOUT)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Map nodes (B, N, D) to nodes (B, N, O)."""
        x = self.input_drop(x)
        vector = self.att_weight.squeeze(1)
        read = graph_attention(
            x, self.att_proj.weight, self.att_proj.bias, vector, self.temperature
        )
        out = self.proj_with_att(read) + self.proj_without_att(x)
        return F.selu(_normalise_nodes(self.bn, out))


class HeteroGraphAttention(nn.Module):
    """Attend over two joined graphs, with one score vector per pair of types, and a master node.

    Pairs inside type 1, inside type 2 and across use the vectors 11, 22 and 12. The master reads
    every node and none reads it.

    Args:
        dim_in: node width D of both graphs and of the master.
        dim_out: width O after the layer.
        temperature: divisor of the scores, the master's included.
    """

    def __init__(self, dim_in: int, dim_out: int, temperature: float) -> None:
        super().__init__()
        self.proj_type1 = nn.Linear(dim_in, dim_in)
        self.proj_type2 = nn.Linear(dim_in, dim_in)
        self.att_proj = nn.Linear(dim_in, dim_out)
        self.att_projM = nn.Linear(dim_in, dim_out)
        self.att_weight11 = _attention_vector(dim_out)
        self.att_weight22 = _attention_vector(dim_out)
        self.att_weight12 = _attention_vector(dim_out)
        self.att_weightM = _attention_vector(dim_out)
        self.proj_with_att = nn.Linear(dim_in, dim_out)
        self.proj_without_att = nn.Linear(dim_in, dim_out)
        self.proj_with_attM = nn.Linear(dim_in, dim_out)
        self.proj_without_attM = nn.Linear(dim_in, dim_out)
        self.bn = nn.BatchNorm1d(dim_out)
        self.input_drop = nn.Dropout(INPUT_DROPOUT)
        self.temperature = temperature

    def forward(self, x1: Tensor, x2: Tensor, master: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map nodes (B, N1, D), (B, N2, D) and a master (B or 1, 1, D) to the same with width O."""
        num_type1 = x1.shape[1]
        # PARITY: the nodes are dropped out after projection and joining; the master never is.
        x = self.input_drop(torch.cat([self.proj_type1(x1), self.proj_type2(x2)], dim=1))
        # PARITY: a learned master enters as (1, 1, D) and broadcasts; its update reads the
        # dropped-out nodes and has neither batch normalisation nor SELU.
        read, summary = hetero_graph_attention(
            x,
            num_type1,
            self.att_proj.weight,
            self.att_proj.bias,
            torch.cat([self.att_weight11, self.att_weight22, self.att_weight12]).view(3, -1),
            self.temperature,
            Master(master, self.att_projM.weight, self.att_projM.bias, self.att_weightM.squeeze(1)),
        )
        master = self.proj_with_attM(summary) + self.proj_without_attM(master)
        out = self.proj_with_att(read) + self.proj_without_att(x)
        out = F.selu(_normalise_nodes(self.bn, out))
        return out[:, :num_type1], out[:, num_type1:], master


class GraphPool(nn.Module):
    """Keep the nodes with the highest sigmoid scores, scaled by them, best first.

    Args:
        dim: node width D.
        ratio: share of nodes kept; at least one is.
    """

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 1)
        self.drop = nn.Dropout(POOL_DROPOUT)
        self.ratio = ratio

    def forward(self, h: Tensor) -> Tensor:
        """Map nodes (B, N, D) to (B, max(int(N * ratio), 1), D) in descending score order."""
        # PARITY: scores come from a dropped-out copy, the gathered nodes are the undropped ones.
        # The order matters, because two pooled branches are later combined node by node.
        scale = self.drop(torch.ones_like(h)) if self.drop.training else None
        return graph_pool(h, self.proj.weight, self.proj.bias, self.ratio, scale=scale)


def _normalise_nodes(bn: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Apply batch normalisation over batch and nodes together: (B, N, O) -> (B, N, O)."""
    return bn(x.flatten(0, 1)).view_as(x)


def _attention_vector(dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, 1)))
