"""Scoring: one number for every trial of a split, computed on any device or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from sparse_aasist.data.dataset import ScoringTrials, checked, collate
from sparse_aasist.data.protocol import Split
from sparse_aasist.embeddings import Embeddings, check_finite
from sparse_aasist.errors import ScoreError
from sparse_aasist.models import AASIST, Output
from sparse_aasist.models.head import zero_fraction


class Scores(NamedTuple):
    """Scores of the N trials of a split, in the order of its protocol.

    Attributes:
        scores: float64 (N,), logit difference bona fide - spoof; higher is more bona fide.
        zero_fraction: measured share of exact zeros in the embeddings, 0..1.
        embeddings: with the head behind them, if they were asked for.
    """

    scores: NDArray[np.float64]
    zero_fraction: float
    embeddings: Embeddings | None


def score(output: Output) -> Tensor:
    """Return the score (B,) of a model output: logit of bona fide minus logit of spoof."""
    return output.logits[:, 1] - output.logits[:, 0]


@torch.inference_mode()
def score_trials(
    fabric: Fabric,
    model: AASIST,
    split: Split,
    samples: int,
    *,
    batch_size: int,
    workers: int = 0,
    embeddings: bool = False,
    track: Callable[[Iterable], Iterable] = iter,
) -> Scores:
    """Score the first `samples` samples of every trial of `split`, shared among all processes.

    Args:
        fabric: gives device, precision and processes.
        model: on that device; put in evaluation mode for the time of the call.
        split: the trials.
        samples: length that is scored; shorter audio is repeated.
        batch_size: trials per forward pass.
        workers: loader processes.
        embeddings: return them too; takes 4 D bytes per trial.
        track: wraps the batches, for a progress bar.

    Raises:
        ScoreError: a score or an embedding is not finite; names the trial.
        AudioError: a file cannot be used; names it.
    """
    own = range(fabric.global_rank, len(split.trials), fabric.world_size)
    loader = fabric.setup_dataloaders(
        DataLoader(
            Subset(ScoringTrials(split, samples), own),
            batch_size,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=fabric.device.type == "cuda",
            generator=torch.Generator(),  # leave the global one, which training resumes, alone
        ),
        use_distributed_sampler=False,
    )
    # Score, share of zeros, embedding: one sum over the processes gathers everything.
    width = 2 + (model.config.dim if embeddings else 0)
    gathered = torch.zeros(len(split.trials), width, device=fabric.device)
    was_training = model.training
    model.eval()
    try:
        for batch in checked(track(loader)):
            with fabric.autocast():
                output = model(batch.waveform)
            columns = [score(output)[:, None], zero_fraction(output.embedding)[:, None]]
            if embeddings:
                columns.append(output.embedding)
            gathered[batch.index] = torch.cat(columns, dim=1)
    finally:
        model.train(was_training)
    gathered = fabric.all_reduce(gathered, reduce_op="sum").cpu().numpy()
    return Scores(
        _finite(gathered[:, 0].astype(np.float64), split),
        float(gathered[:, 1].mean(dtype=np.float64)),
        _with_head(gathered[:, 2:], model, split) if embeddings else None,
    )


def _with_head(embeddings: NDArray[np.float32], model: AASIST, split: Split) -> Embeddings:
    names = tuple(trial.name for trial in split.trials)
    check_finite(embeddings, names, split.name)
    weight, bias = (tensor.detach().cpu().numpy() for tensor in model.out_layer.parameters())
    return Embeddings(names, embeddings, weight, bias)


def _finite(scores: NDArray[np.float64], split: Split) -> NDArray[np.float64]:
    broken = np.flatnonzero(~np.isfinite(scores))
    if broken.size:
        raise ScoreError(
            f"{split.name}: the score of trial {split.trials[broken[0]].name} is not finite "
            f"({broken.size} such); the weights may have diverged"
        )
    return scores
