"""The folder of one training run: what lies where, and how it is written."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy
import soundfile
import torch
from lightning_fabric import Fabric

import sparse_aasist
from sparse_aasist.engine import precision_of
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.files import check_writable, write_text
from sparse_aasist.training.config import TrainingConfig


class RunFolder:
    """Name and write the files of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.tensorboard = self.path / "tensorboard"

    def prepare(self, *, resume: bool) -> None:
        """Create the folder, or check that it holds a run to resume.

        Raises:
            SparseAasistError: it holds a run and `resume` is off, holds none and it is on, or
                cannot be written.
        """
        if resume and not self.last.is_file():
            raise SparseAasistError(f"{self.path}: nothing to resume (no {self.last.name} there)")
        if not resume and self.last.exists():
            raise SparseAasistError(
                f"{self.path}: holds a run already; add --resume to continue it or choose "
                "another --output"
            )
        check_writable(self.path)

    def write_config(
        self, config: TrainingConfig, data_dir: str | os.PathLike[str], fabric: Fabric
    ) -> None:
        """Write the resolved settings and the environment to config.json."""
        record = {
            "training": config.to_dict(),
            "data": str(Path(data_dir).resolve()),
            "environment": {
                "sparse_aasist": sparse_aasist.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": numpy.__version__,
                "soundfile": f"{soundfile.__version__}, {soundfile.__libsndfile_version__}",
                "device": str(fabric.device),
                "processes": fabric.world_size,
                "precision": precision_of(fabric),
                "threads": torch.get_num_threads(),
                "platform": platform.platform(),
            },
        }
        write_text(self.config, json.dumps(record, indent=2) + "\n")

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write one JSON line per epoch, and the last epoch to TensorBoard."""
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in history))
        from torch.utils.tensorboard import SummaryWriter

        record = history[-1]
        with SummaryWriter(self.tensorboard, purge_step=record["epoch"]) as writer:
            for name, value in record.items():
                if name not in ("epoch", "seconds"):
                    writer.add_scalar(name, value, record["epoch"])
