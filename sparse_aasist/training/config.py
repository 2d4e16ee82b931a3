"""What a training run is told: the official ASVspoof5 baseline's recipe and a short preset.

Source of the defaults: asvspoof-challenge/asvspoof5, Baseline-AASIST (config and main.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sparse_aasist.errors import SparseAasistError
from sparse_aasist.models import AASISTConfig

PRECISIONS = ("32-true", "bf16-mixed", "auto")


@dataclass(frozen=True)
class TrainingConfig:
    """Describe one training run.

    Args:
        model: the network.
        epochs: passes over the training trials.
        batch_size: trials per step over all devices.
        lr: learning rate of Adam at the first step.
        lr_min: learning rate at the last step (cosine in between, per step).
        weight_decay: coupled L2 of Adam.
        class_weights: weights of (spoof, bona fide) in the cross-entropy.
        train_samples: length of the random training crops, in samples.
        eval_samples: length of the first crop that is scored, in samples.
        seed: of weights, order, crops and dropout.
        precision: "32-true", "bf16-mixed", or "auto" (what is fastest here: `engine`).

    Raises:
        SparseAasistError: a value is out of range; names it.
    """

    model: AASISTConfig = field(default_factory=AASISTConfig)
    epochs: int = 100
    batch_size: int = 24
    lr: float = 1e-4
    lr_min: float = 5e-6
    weight_decay: float = 1e-4
    class_weights: tuple[float, float] = (0.1, 0.9)
    train_samples: int = 64_600
    eval_samples: int = 64_600
    seed: int = 1234
    precision: str = "32-true"

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", tuple(self.class_weights))
        for name in ("epochs", "batch_size", "train_samples", "eval_samples"):
            if getattr(self, name) < 1:
                raise SparseAasistError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise SparseAasistError("batch_size must be at least 2: batch normalisation needs it")
        if not 0.0 <= self.lr_min <= self.lr:
            raise SparseAasistError(
                f"lr_min must lie between 0 and lr = {self.lr}, got {self.lr_min}"
            )
        if not 0 <= self.seed < 2**63:
            raise SparseAasistError(f"seed must lie between 0 and 2^63 - 1, got {self.seed}")
        if len(self.class_weights) != 2 or min(self.class_weights) <= 0:
            raise SparseAasistError(
                f"class_weights must be two positive numbers, got {self.class_weights}"
            )
        if self.precision not in PRECISIONS:
            raise SparseAasistError(
                f"precision must be one of {PRECISIONS}, got {self.precision!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Rebuild a configuration from `to_dict`."""
        return cls(**{**values, "model": AASISTConfig.from_dict(values["model"])})


PRESETS: dict[str, dict[str, Any]] = {
    "asvspoof5": {},
    # Two CPU cores, minutes: half-second crops buy eight times the steps, and 650 steps want a
    # larger rate. The small corpus is near balanced, so the classes weigh the same.
    "demo": {
        "epochs": 18,
        "lr": 1e-3,
        "lr_min": 1e-5,
        "class_weights": (0.5, 0.5),
        "train_samples": 8_000,
        "eval_samples": 16_000,
        "precision": "auto",
    },
}
"""Named departures from the defaults."""
