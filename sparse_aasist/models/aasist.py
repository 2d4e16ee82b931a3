"""AASIST with a TopK last hidden layer: raw waveform in, sparse embedding and two logits out.

Source: AASIST, arXiv 2110.01200 and clovaai/aasist, models/AASIST.py; TopK, arXiv 2510.05696.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_aasist.errors import CheckpointError, SparseAasistError
from sparse_aasist.models.checkpoint import read_model
from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.models.encoder import build_encoder, normalise_one_channel
from sparse_aasist.models.front_end import SincFrontEnd
from sparse_aasist.models.fusion import is_ordinary, normalisation, only_computes
from sparse_aasist.models.graph import GraphAttention, GraphPool, HeteroGraphAttention
from sparse_aasist.models.graph_stack import graph_stack
from sparse_aasist.models.head import SparseHead
from sparse_aasist.ops import front_end
from sparse_aasist.ops.residual_block import POOL_STEP

BRANCH_DROPOUT = 0.2


class Output(NamedTuple):
    """What a model returns for a batch of B waveforms.

    Attributes:
        embedding: (B, D), the last hidden layer after TopK and before dropout.
        logits: (B, 2), index 0 spoof, 1 bona fide; the score is logits[:, 1] - logits[:, 0].
    """

    embedding: Tensor
    logits: Tensor


class AASIST(nn.Module):
    """Detect fake speech in a raw waveform with graph attention and a sparse embedding.

    Args:
        dim: D, width of the embedding; a multiple of 5. 160 is the published size.
        k: values kept in the embedding of each utterance; None is the dense baseline.
        **options: further fields of `AASISTConfig`.

    Raises:
        SparseAasistError: dim, k or an option is out of range.

    Example:
        >>> model = AASIST(dim=320, k=20).eval()
        >>> embedding, logits = model(torch.zeros(1, 64_600))
        >>> embedding.shape, logits.shape
        (torch.Size([1, 320]), torch.Size([1, 2]))
    """

    def __init__(self, dim: int = 160, k: int | None = None, **options: Any) -> None:
        super().__init__()
        config = AASISTConfig.from_dict({"dim": dim, "k": k, **options})
        self.config = config
        gat_dim, htrg_dim = config.gat_dims
        channels = config.filts[-1][-1]
        spectral, temporal, hetero = config.pool_ratios[:3]
        # PARITY: upstream reads the third ratio and temperature everywhere behind the first pools.
        temp_s, temp_t, temp_h = config.temperatures[:3]

        self.conv_time = SincFrontEnd(config.filts[0], config.first_conv)
        self.first_bn = nn.BatchNorm2d(1)
        self.encoder = build_encoder(config.filts[1:])
        self.pos_S = nn.Parameter(torch.randn(1, config.filts[0] // POOL_STEP, channels))
        self.master1 = nn.Parameter(torch.randn(1, 1, gat_dim))
        self.master2 = nn.Parameter(torch.randn(1, 1, gat_dim))

        self.GAT_layer_S = GraphAttention(channels, gat_dim, temp_s)
        self.GAT_layer_T = GraphAttention(channels, gat_dim, temp_t)
        self.HtrgGAT_layer_ST11 = HeteroGraphAttention(gat_dim, htrg_dim, temp_h)
        self.HtrgGAT_layer_ST12 = HeteroGraphAttention(htrg_dim, htrg_dim, temp_h)
        self.HtrgGAT_layer_ST21 = HeteroGraphAttention(gat_dim, htrg_dim, temp_h)
        self.HtrgGAT_layer_ST22 = HeteroGraphAttention(htrg_dim, htrg_dim, temp_h)
        self.pool_S = GraphPool(gat_dim, spectral)
        self.pool_T = GraphPool(gat_dim, temporal)
        self.pool_hS1 = GraphPool(htrg_dim, hetero)
        self.pool_hT1 = GraphPool(htrg_dim, hetero)
        self.pool_hS2 = GraphPool(htrg_dim, hetero)
        self.pool_hT2 = GraphPool(htrg_dim, hetero)

        self.drop_way = nn.Dropout(BRANCH_DROPOUT)
        self.head = SparseHead(config)
        self.out_layer = nn.Linear(config.dim, 2)

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike[str], conf: str | os.PathLike[str] | None = None
    ) -> AASIST:
        """Load a model in evaluation mode from our .safetensors or clovaai's .pth file.

        Args:
            path: a checkpoint written by training here (configuration inside), or a published
                state dict, whose configuration is inferred from its tensors.
            conf: upstream's .conf JSON beside a .pth; supplies what tensors cannot tell
                (first_conv, pool_ratios, temperatures), else upstream's defaults hold.

        Raises:
            CheckpointError: the file is missing, unreadable, or of another shape; names it.
        """
        config, state = read_model(path, conf)
        model = cls(**config.to_dict())
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: the weights do not fit an AASIST model: {detail}"
            ) from error
        return model.eval()

    @property
    def min_samples(self) -> int:
        """Shortest waveform that leaves one time step after all pooling."""
        return self.conv_time.taps - 1 + POOL_STEP ** (1 + len(self.encoder))

    def forward(self, waveform: Tensor) -> Output:
        """Score a batch of waveforms of one length.

        Args:
            waveform: float32 (B, T) at 16 kHz in [-1, 1], T >= `min_samples` (2,315 by default).

        Returns:
            Output(embedding (B, D), logits (B, 2)).

        Raises:
            SparseAasistError: the shape or dtype is wrong or the waveform is too short.
        """
        self._check(waveform)
        features = self.encoder(self._filter(waveform))
        # Under autocast only the encoder, nearly all of the work, runs in low precision: bf16
        # logits would tie, and the two attention layers of low temperature are sensitive to it.
        with torch.autocast(waveform.device.type, enabled=False):
            return self._classify(features.to(self.pos_S.dtype))

    def _filter(self, waveform: Tensor) -> Tensor:
        """Map waveforms (B, T) to the encoder's input (B, 1, F, T')."""
        bn, dtype = self._modules["first_bn"], waveform.dtype
        if type(self.conv_time) is SincFrontEnd and is_ordinary(bn, dtype):
            if only_computes(self.conv_time, dtype) and only_computes(bn, dtype):
                return front_end(waveform, self.conv_time.filters, normalisation(bn))
            is_float = waveform.is_cuda and dtype is torch.float32
            if is_float and only_computes(bn, dtype, training=True):
                return F.selu(normalise_one_channel(bn, self.conv_time(waveform)))
        return F.selu(self.first_bn(self.conv_time(waveform)))

    def _classify(self, features: Tensor) -> Output:
        """Map the encoder's output (B, C, F, T) to the output through graphs and head."""
        readout = graph_stack(self, features)
        if readout is None:
            readout = self._read_graphs(features)
        # PARITY: the classifier is the model's own, because upstream's state dicts name it so.
        return Output(*self.head(readout, self.out_layer))

    def _read_graphs(self, features: Tensor) -> Tensor:
        """Map the encoder's output (B, C, F, T) to the readout (B, D), module by module."""
        # One node per frequency band and one per time step, by the largest magnitude.
        magnitudes = features.abs()
        nodes_s = magnitudes.max(dim=3).values.transpose(1, 2) + self.pos_S
        nodes_t = magnitudes.max(dim=2).values.transpose(1, 2)
        spectral = self.pool_S(self.GAT_layer_S(nodes_s))
        temporal = self.pool_T(self.GAT_layer_T(nodes_t))

        branch1 = self._branch(1, temporal, spectral)
        branch2 = self._branch(2, temporal, spectral)
        # Dropout draws in upstream's order: T1, T2, S1, S2, master1, master2.
        pairs = [
            (self.drop_way(a), self.drop_way(b)) for a, b in zip(branch1, branch2, strict=True)
        ]
        out_t, out_s, master = (torch.max(a, b) for a, b in pairs)
        return torch.cat(
            [
                out_t.abs().max(dim=1).values,
                out_t.mean(dim=1),
                out_s.abs().max(dim=1).values,
                out_s.mean(dim=1),
                master.squeeze(1),
            ],
            dim=1,
        )

    def _branch(self, number: int, temporal: Tensor, spectral: Tensor) -> tuple[Tensor, ...]:
        """Run one of the two heterogeneous stacks; return its (temporal, spectral, master)."""
        first, second = (getattr(self, f"HtrgGAT_layer_ST{number}{n}") for n in (1, 2))
        master = getattr(self, f"master{number}")
        out_t, out_s, master = first(temporal, spectral, master)
        out_s = getattr(self, f"pool_hS{number}")(out_s)
        out_t = getattr(self, f"pool_hT{number}")(out_t)
        more_t, more_s, more_master = second(out_t, out_s, master)
        return out_t + more_t, out_s + more_s, master + more_master

    def _check(self, waveform: Tensor) -> None:
        if waveform.ndim != 2 or waveform.dtype != self.pos_S.dtype:
            raise SparseAasistError(
                f"waveform must be a {self.pos_S.dtype} tensor of shape (batch, samples), "
                f"got {waveform.dtype} {tuple(waveform.shape)}"
            )
        if waveform.shape[1] < self.min_samples:
            raise SparseAasistError(
                f"waveform has {waveform.shape[1]} samples; the model needs at least "
                f"{self.min_samples} (pad or repeat it)"
            )
