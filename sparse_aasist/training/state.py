"""All state of a training run in one object, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparse_aasist.errors import CheckpointError
from sparse_aasist.models import AASIST
from sparse_aasist.models.checkpoint import (
    MODEL_PREFIX,
    model_tensors,
    read_tensors,
    save_tensors,
    with_prefix,
)
from sparse_aasist.training.config import TrainingConfig

OPTIMIZER_PREFIX = "optimizer."
RNG_PREFIX = "rng."


@dataclass
class TrainingState:
    """Everything that moves during training.

    The order of trials and their crops are functions of (seed, epoch, step), and the learning
    rate is a function of the step, so positions stand for the sampler and the schedule.

    Args:
        config: of the run.
        model: the network, on its device.
        optimizer: Adam over the parameters of `model`.
        epoch: current epoch, from 0.
        step: batches done in this epoch.
        loss_sum: sum of the losses of those batches.
        best_eer: lowest dev EER so far.
        history: one record per finished epoch.
        data: digest of the train and dev trials.
        rng: RNG states by name, uint8 (processes, bytes).
    """

    config: TrainingConfig
    model: AASIST
    optimizer: torch.optim.Adam
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_eer: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    data: str = ""
    rng: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def fresh(cls, config: TrainingConfig) -> TrainingState:
        """Start a run: weights drawn from the seed, Adam as in the official recipe."""
        torch.manual_seed(config.seed)
        model = AASIST(**config.model.to_dict())
        # Fused: PyTorch's loop over 150 small tensors takes 14 ms of a step on a CPU, this one 1.4.
        optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        return cls(config, model, optimizer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one .safetensors file, atomically.

        Raises:
            OSError: the file cannot be written; names it.
        """
        tensors = model_tensors(self.model)
        names = {id(p): name for name, p in self.model.named_parameters()}
        for parameter, moments in self.optimizer.state.items():
            for key, value in moments.items():
                tensors[f"{OPTIMIZER_PREFIX}{key}.{names[id(parameter)]}"] = value
        tensors |= {RNG_PREFIX + name: value for name, value in self.rng.items()}
        save_tensors(path, tensors, self._metadata())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file written by `save`, in place; the model must be on its device.

        Raises:
            CheckpointError: the file is missing, truncated, or of a run with another
                configuration or on other trials; names the file and what differs.
        """
        tensors, metadata = read_tensors(path)
        if "training" not in metadata:
            raise CheckpointError(f"{path}: holds no training state, so it cannot be resumed")
        try:
            stored = TrainingConfig.from_dict(metadata["training"]["config"]).to_dict()
        except TypeError as error:
            raise CheckpointError(f"{path}: was written by another version ({error})") from error
        here = self.config.to_dict()
        changed = [key for key in here if stored[key] != here[key]]
        if changed:
            raise CheckpointError(
                f"{path}: was trained with another {', '.join(changed)}; "
                "resume with the same settings or choose another --output"
            )
        progress = metadata["training"]["progress"]
        if progress["data"] != self.data:
            raise CheckpointError(
                f"{path}: was trained on other trials; resume with the same --data"
            )
        self.model.load_state_dict(with_prefix(tensors, MODEL_PREFIX))
        self._load_moments(with_prefix(tensors, OPTIMIZER_PREFIX))
        self.rng = with_prefix(tensors, RNG_PREFIX)
        self.epoch, self.step = progress["epoch"], progress["step"]
        self.loss_sum, self.history = progress["loss_sum"], progress["history"]
        self.best_eer = math.inf if progress["best_eer"] is None else progress["best_eer"]

    def _metadata(self) -> dict[str, Any]:
        progress = {
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "best_eer": None if math.isinf(self.best_eer) else self.best_eer,
            "history": self.history,
            "data": self.data,
        }
        return {
            "config": self.model.config.to_dict(),
            "scoring": {"samples": self.config.eval_samples},
            "training": {"config": self.config.to_dict(), "progress": progress},
        }

    def _load_moments(self, moments: dict[str, Tensor]) -> None:
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            own = {
                key: moments[f"{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in moments
            }
            if own:
                # Copies: a tensor inside a file is not aligned, and vector code may round
                # differently.
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device, copy=True) for key, value in own.items()
                }


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the rate of a step: lr_min + (lr - lr_min) (1 + cos(pi step / steps)) / 2.

    Args:
        config: gives lr and lr_min.
        step: steps done since the start of the run.
        steps: steps of the whole run.

    Source: asvspoof-challenge/asvspoof5, Baseline-AASIST/utils.py (cosine per step).
    """
    return config.lr_min + (config.lr - config.lr_min) * (1 + math.cos(math.pi * step / steps)) / 2
