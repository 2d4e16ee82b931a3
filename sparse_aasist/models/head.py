"""The sparse last hidden layer: keep the k highest values, then classify linearly.

Source: arXiv 2510.05696 (TopK on the last hidden layer); the classifier is clovaai/aasist's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.ops import topk_activation, topk_mask

EMBEDDING_DROPOUT = 0.5


class SparseEmbedding(nn.Module):
    """Turn the readout into the sparse embedding and its dropped-out copy for the classifier.

    Args:
        config: uses dim, k, topk_by, topk_order and sigmoid.
    """

    def __init__(self, config: AASISTConfig) -> None:
        super().__init__()
        self.drop = nn.Dropout(EMBEDDING_DROPOUT)
        # k = D keeps everything, so the dense baseline skips the op.
        self.k = None if config.k in (None, config.dim) else config.k
        self.by = config.topk_by
        self.after_dropout = config.topk_order == "after_dropout"
        self.sigmoid = config.sigmoid

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map the readout (B, D) to (embedding, classifier input), both (B, D).

        The embedding is what is analysed: after TopK and before dropout, unless TopK is asked for
        after dropout, where both are the same tensor.
        """
        if self.after_dropout:
            embedding = self._select(*self._activate_and_drop(hidden))
            return embedding, embedding
        activation = torch.sigmoid(hidden) if self.sigmoid else hidden
        embedding = self._select(activation, hidden)
        return embedding, self.drop(embedding)

    def _activate_and_drop(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        activation = self.drop(torch.sigmoid(hidden) if self.sigmoid else hidden)
        if not (self.sigmoid and self.training):
            return activation, hidden if self.sigmoid else activation
        # A dropped value is 0, below every sigmoid; the others rank by pre-activation.
        return activation, hidden.masked_fill(activation == 0, -torch.inf)

    def _select(self, activation: Tensor, ranked: Tensor) -> Tensor:
        """Keep the k highest entries; `ranked` is the pre-activation when a sigmoid was applied.

        fp32 sigmoid is exactly 1 from about 17 on, so ranking its output would invent ties.
        """
        if self.k is None:
            return activation
        if self.sigmoid:
            return torch.where(topk_mask(ranked, self.k), activation, 0.0)
        return topk_activation(activation, self.k, by=self.by)


def zero_fraction(embedding: Tensor) -> Tensor:
    """Return the measured share of exact zeros of each embedding: (..., D) -> (...), in 0..1."""
    return (embedding == 0).float().mean(dim=-1)
