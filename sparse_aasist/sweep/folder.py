"""The folder of a sweep: its plan, its runs and what stands finished.

sweep.json              recipe, data and the planned runs
runs/NAME/              a run folder as training writes it, and of this package:
  {dev,eval}_scores.tsv, {dev,eval}_embeddings.npz, summary.json (last; marks the run finished)
  log.txt, run.lock     what the run printed; held by the process that works on it
results.csv             all figures of all finished runs, one per line
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_aasist.data.protocol import SPLITS, Split, has_split, open_split, trials_digest
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.files import check_writable, write_text
from sparse_aasist.sweep.grid import run_name, shared_recipe
from sparse_aasist.training.config import TrainingConfig
from sparse_aasist.training.run_folder import RunFolder


class SweepRun:
    """One planned run: its configuration and its folder.

    Args:
        config: the recipe.
        path: the folder.
    """

    def __init__(self, config: TrainingConfig, path: Path) -> None:
        self.config, self.path = config, path
        self.name = path.name
        self.files = RunFolder(path)
        self.summary = path / "summary.json"
        self.log = path / "log.txt"

    def lock(self) -> FileLock:
        """Return the lock of this run. It dies with its process, so a crash leaves the run free."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / "run.lock", timeout=0)

    @property
    def is_finished(self) -> bool:
        return self.summary.is_file()

    @property
    def is_locked(self) -> bool:
        """Whether some process, here or on another machine, works on it."""
        try:
            with self.lock():
                return False
        except Timeout:
            return True

    def epochs_done(self) -> int:
        """Return how many epochs have been trained so far."""
        try:
            with open(self.files.metrics, "rb") as lines:
                return sum(1 for _ in lines)
        except OSError:  # not begun, or a network file system that hiccups: progress can wait
            return 0

    def read_summary(self) -> dict[str, Any]:
        """Read summary.json.

        Raises:
            SparseAasistError: it is missing, damaged or of an older version; names it.
        """
        try:
            summary = json.loads(self.summary.read_text(encoding="utf-8"))
            if "checkpoint_sha256" not in summary:
                raise ValueError("no checkpoint_sha256 in it")
            return summary
        except (OSError, ValueError) as error:
            raise SparseAasistError(
                f"{self.summary}: cannot be read ({error}); remove it and continue the sweep to "
                "have the run scored again"
            ) from error

    def scores(self, split: str) -> Path:
        return self.path / f"{split}_scores.tsv"


class SweepFolder:
    """The folder of one sweep.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.plan = self.path / "sweep.json"
        self.results = self.path / "results.csv"
        self.configurations = self.path / "configurations.csv"

    def add(self, configs: Sequence[TrainingConfig], data_dir: str | os.PathLike[str]) -> None:
        """Write the plan, or add runs to the one that is there.

        Args:
            configs: runs of one recipe.
            data_dir: directory in ASVspoof5 layout.

        Raises:
            SparseAasistError: the folder cannot be written, or holds a sweep with another recipe
                or other data; names what differs.
            ProtocolError: the data directory is unusable.
        """
        digest = trials_digest(*_splits(data_dir).values())
        new = {"recipe": shared_recipe(configs[0]), "trials": digest}
        check_writable(self.path)
        with FileLock(self.path / "sweep.lock"):
            plan: dict[str, Any] = {**new, "data": str(Path(data_dir).resolve()), "runs": []}
            if self.plan.exists():
                plan = self._read()
                self._check_same(plan, new)
            planned = [run["config"] for run in plan["runs"]]
            for config in configs:
                values = json.loads(json.dumps(config.to_dict()))
                if values not in planned:
                    plan["runs"].append({"name": run_name(config), "config": values})
            write_text(self.plan, json.dumps(plan, indent=2) + "\n")

    def runs(self) -> list[SweepRun]:
        """Return all planned runs.

        Raises:
            SparseAasistError: there is no plan, or it cannot be read; names it.
        """
        return [
            SweepRun(TrainingConfig.from_dict(run["config"]), self.path / "runs" / run["name"])
            for run in self._read()["runs"]
        ]

    def splits(self, data_dir: str | os.PathLike[str] | None = None) -> dict[str, Split]:
        """Open the splits of the sweep's data: train, dev and, where there is one, eval.

        Args:
            data_dir: where the data are now; where they were when the sweep was planned if None.

        Raises:
            SparseAasistError: the data are gone or are not those the sweep was planned on.
        """
        plan = self._read()
        data_dir = data_dir or plan["data"]
        splits = _splits(data_dir)
        if trials_digest(*splits.values()) != plan["trials"]:
            raise SparseAasistError(
                f"{data_dir}: its protocols are not those that {self.plan} was written for; name "
                "the right --data or start a sweep in another folder"
            )
        return splits

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self.plan.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SparseAasistError(
                f"{self.path}: holds no sweep (no {self.plan.name} there); start one with "
                "`sparse-aasist sweep`"
            ) from error
        except (OSError, ValueError) as error:
            raise SparseAasistError(
                f"{self.plan}: cannot be read ({error}); restore it, or start a sweep in another "
                "folder"
            ) from error

    def _check_same(self, plan: dict[str, Any], new: dict[str, Any]) -> None:
        old_recipe, new_recipe = plan["recipe"], json.loads(json.dumps(new["recipe"]))
        changed = [key for key in new_recipe if old_recipe.get(key) != new_recipe[key]]
        if changed:
            raise SparseAasistError(
                f"{self.path}: holds a sweep with another {', '.join(changed)}; use the same "
                "recipe or another --output"
            )
        if plan["trials"] != new["trials"]:
            raise SparseAasistError(
                f"{self.path}: holds a sweep on other trials ({plan['data']}); use the same "
                "--data or another --output"
            )


def _splits(data_dir: str | os.PathLike[str]) -> dict[str, Split]:
    needed = [split for split in SPLITS if split != "eval" or has_split(data_dir, split)]
    return {split: open_split(data_dir, split) for split in needed}
