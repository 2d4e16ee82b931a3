"""Graph attention, heterogeneous graph attention with a master node, and graph pooling.

Source: clovaai/aasist, models/AASIST.py (GraphAttentionLayer, HtrgGraphAttentionLayer, GraphPool);
AASIST is arXiv 2110.01200. Attribute names are upstream's, because state dicts carry them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        hidden = torch.tanh(self.att_proj(_node_products(x)))
        scores = (hidden @ self.att_weight).squeeze(-1) / self.temperature
        attention = scores.softmax(dim=-1)
        out = self.proj_with_att(attention @ x) + self.proj_without_att(x)
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
        hidden = torch.tanh(self.att_proj(_node_products(x)))
        attention = (self._pair_scores(hidden, num_type1) / self.temperature).softmax(dim=-1)
        master = self._update_master(x, master)
        out = self.proj_with_att(attention @ x) + self.proj_without_att(x)
        out = F.selu(_normalise_nodes(self.bn, out))
        return out[:, :num_type1], out[:, num_type1:], master

    def _pair_scores(self, hidden: Tensor, num_type1: int) -> Tensor:
        vectors = torch.cat([self.att_weight11, self.att_weight12, self.att_weight22], dim=1)
        within1, across, within2 = (hidden @ vectors).unbind(dim=-1)
        is_type1 = torch.arange(hidden.shape[1], device=hidden.device) < num_type1
        same = is_type1[:, None] == is_type1[None, :]
        return torch.where(same, torch.where(is_type1[:, None], within1, within2), across)

    def _update_master(self, x: Tensor, master: Tensor) -> Tensor:
        # PARITY: a learned master enters as (1, 1, D) and broadcasts; its update reads the
        # dropped-out nodes and has neither batch normalisation nor SELU.
        hidden = torch.tanh(self.att_projM(x * master))
        attention = ((hidden @ self.att_weightM) / self.temperature).softmax(dim=1)
        summary = attention.transpose(1, 2) @ x
        return self.proj_with_attM(summary) + self.proj_without_attM(master)


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
        scores = torch.sigmoid(self.proj(self.drop(h)))
        kept = max(int(h.shape[1] * self.ratio), 1)
        # PARITY: the order matters, because two pooled branches are later combined node by node.
        # A stable sort keeps the lowest index first among equal scores.
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :kept]
        return (h * scores).gather(1, order.expand(-1, -1, h.shape[2]))


def _node_products(x: Tensor) -> Tensor:
    """Return x_i * x_j for all pairs: (B, N, D) -> (B, N, N, D)."""
    return x.unsqueeze(2) * x.unsqueeze(1)


def _normalise_nodes(bn: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Apply batch normalisation over batch and nodes together: (B, N, O) -> (B, N, O)."""
    return bn(x.flatten(0, 1)).view_as(x)


def _attention_vector(dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, 1)))
