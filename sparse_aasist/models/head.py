"""The sparse last hidden layer: keep the k highest values, then classify linearly.

Source: arXiv 2510.05696 (TopK on the last hidden layer); the classifier is clovaai/aasist's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.ops import topk_activation, topk_linear

EMBEDDING_DROPOUT = 0.5


class SparseHead(nn.Module):
    """Turn the readout into the sparse embedding and the logits.

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

    def forward(self, hidden: Tensor, classifier: nn.Linear) -> tuple[Tensor, Tensor]:
        """Map the readout (B, D) to the embedding (B, D) and the logits (B, 2).

        The embedding is what is analysed: after TopK and before dropout, unless TopK is asked for
        after dropout.
        """
        if self.k is None or self.sigmoid or not _is_plain(classifier):
            embedding = self._embed(hidden)
            return embedding, classifier(embedding if self.after_dropout else self.drop(embedding))
        scale = None
        if self.after_dropout:
            hidden = self.drop(hidden)
        elif self.drop.training:
            # Dropout behind TopK is a factor on what is kept.
            scale = self.drop(torch.ones_like(hidden))
        logits, embedding = topk_linear(
            hidden,
            self.k,
            classifier.weight,
            classifier.bias,
            by=self.by,
            scale=scale,
            return_activation=True,
        )
        return embedding, logits

    def _embed(self, hidden: Tensor) -> Tensor:
        """Return the embedding alone."""
        activation = torch.sigmoid(hidden) if self.sigmoid else hidden
        if self.after_dropout:
            activation = self.drop(activation)
        if self.k is None:
            return activation
        if not self.sigmoid:
            return topk_activation(activation, self.k, by=self.by)
        # Ranked by pre-activation: the fp32 sigmoid is exactly 1 from about 17 on, so ranking its
        # output would invent ties.
        ranked = hidden
        if self.after_dropout and self.drop.training:
            # A dropped value is 0, below every sigmoid.
            ranked = hidden.masked_fill(activation == 0, -torch.inf)
        kept = topk_activation(ranked.detach(), self.k, return_indices=True).indices.long()
        return torch.zeros_like(activation).scatter(-1, kept, activation.gather(-1, kept))


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether calling `layer` is no more than its weight and bias: no hooks, not replaced."""
    return type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks


def zero_fraction(embedding: Tensor) -> Tensor:
    """Return the measured share of exact zeros of each embedding: (..., D) -> (...), in 0..1."""
    return (embedding == 0).float().mean(dim=-1)
