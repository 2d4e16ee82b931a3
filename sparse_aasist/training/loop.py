"""The training loop: epochs of steps, a dev evaluation after each, and a state saved often.

The engine (devices, precision, data parallelism) is Lightning Fabric; the loop stays explicit.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from rich.console import Console
from torch.utils.data import DataLoader

from sparse_aasist.data.dataset import EpochBatches, TrainingTrials, checked, collate
from sparse_aasist.data.protocol import Split, open_split, trials_digest
from sparse_aasist.engine import lay_out, make_fabric
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.calibration import fit_calibration
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.models import AASIST
from sparse_aasist.models.checkpoint import save_model
from sparse_aasist.scoring import score_trials
from sparse_aasist.training.config import TrainingConfig
from sparse_aasist.training.progress import epoch_progress, scoring_progress
from sparse_aasist.training.run_folder import RunFolder
from sparse_aasist.training.state import TrainingState, learning_rate

SAVE_EVERY_STEPS = 500
"""A killed run loses at most this many steps."""


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM) and its state is saved."""


def train(
    config: TrainingConfig,
    data_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    resume: bool = False,
    devices: int = 1,
    workers: int | None = None,
    console: Console | None = None,
) -> Path:
    """Train a model on the train split, select on the dev split, and return the best checkpoint.

    The eval split is never opened here.

    Args:
        config: the recipe.
        data_dir: directory in ASVspoof5 layout.
        output_dir: run folder for config.json, metrics.jsonl, best and last .safetensors and
            TensorBoard events.
        resume: continue the run in `output_dir`; its settings must be the same.
        devices: number of devices; the batch is shared among them.
        workers: loader processes per device; None chooses by the device.
        console: where progress is shown.

    Raises:
        SparseAasistError: data, settings or `output_dir` are unusable; names which.
        Interrupted: a signal asked to stop; `last.safetensors` continues from there.
    """
    console = console or Console()
    folder = RunFolder(output_dir)
    folder.prepare(resume=resume)
    train_split, dev_split = open_split(data_dir, "train"), open_split(data_dir, "dev")
    fabric = make_fabric(config.precision, devices)
    state = TrainingState.fresh(config)
    state.data = trials_digest(train_split, dev_split)
    run = _Run(config, fabric, state, folder, console, default_workers(fabric, workers))
    run.prepare(train_split, dev_split)
    run.start(resume)
    if fabric.is_global_zero and not resume:
        folder.write_config(config, data_dir, fabric)
    with _stop_on_signal() as stop:
        run.all_epochs(stop)
    return folder.best


class _Run:
    """One run on one process: the engine, the state and where results go."""

    def __init__(
        self,
        config: TrainingConfig,
        fabric: Fabric,
        state: TrainingState,
        folder: RunFolder,
        console: Console,
        workers: int,
    ) -> None:
        self.config, self.fabric, self.state = config, fabric, state
        self.folder, self.console, self.workers = folder, console, workers

    def prepare(self, train_split: Split, dev_split: Split) -> None:
        """Put model, optimizer and data in place."""
        fabric, config, state = self.fabric, self.config, self.state
        _check_lengths(config, state.model)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        lay_out(fabric, state.model)
        self.model, self.optimizer = fabric.setup(state.model, state.optimizer)
        self.dev_split = dev_split
        self.dev_labels = _labels(dev_split)
        self.trials = TrainingTrials(train_split, config.train_samples, config.seed)
        self.batches = EpochBatches(
            len(self.trials), config.batch_size, config.seed, fabric.global_rank, fabric.world_size
        )
        self.loader = fabric.setup_dataloaders(
            DataLoader(
                self.trials,
                batch_sampler=self.batches,
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=fabric.device.type == "cuda",
                # An iterator draws a seed for its workers; from the global generator that draw
                # would shift the dropout masks of a resumed run.
                generator=torch.Generator(),
            ),
            use_distributed_sampler=False,
        )
        self.class_weights = torch.tensor(config.class_weights, device=fabric.device)

    def start(self, resume: bool) -> None:
        """Set the random generators for a fresh run, or the whole state to where it was."""
        if resume:
            # Now that the weights are on their device: the optimizer's moments follow them there.
            self.state.load(self.folder.last)
            self._restore_rng()
        else:
            torch.manual_seed(self.config.seed + self.fabric.global_rank)

    def all_epochs(self, stop: threading.Event) -> None:
        """Run the epochs that are left."""
        while self.state.epoch < self.config.epochs:
            started = time.monotonic()
            self._train_epoch(stop)
            # Scoring dev can take long: a run that is killed meanwhile continues with it.
            self._save_last()
            self._end_epoch(started)
            if self.state.epoch < self.config.epochs and self._all_agree_to_stop(stop):
                raise Interrupted

    def _train_epoch(self, stop: threading.Event) -> None:
        state, steps = self.state, len(self.batches)
        total = steps * self.config.epochs
        self.batches.seek(state.epoch, state.step)
        self.model.train()
        with epoch_progress(self.console, state, steps, self.fabric.is_global_zero) as show:
            for batch in checked(self.loader):
                rate = learning_rate(self.config, state.epoch * steps + state.step, total)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss = F.cross_entropy(
                    self.model(batch.waveform).logits, batch.label, weight=self.class_weights
                )
                self.optimizer.zero_grad(set_to_none=True)
                self.fabric.backward(loss)
                self.optimizer.step()
                # Waits for a GPU, so not before the whole step was launched. A step that diverged
                # is not saved: all processes agree below before one of them saves.
                value = loss.item()
                if not math.isfinite(value):
                    raise self._diverged(value, batch.index)
                state.loss_sum += value
                state.step += 1
                show(state.loss_sum / state.step)
                if self._all_agree_to_stop(stop):
                    self._save_last()
                    raise Interrupted
                if state.step % SAVE_EVERY_STEPS == 0:
                    self._save_last()

    def _all_agree_to_stop(self, stop: threading.Event) -> bool:
        """Tell whether any process was asked to stop, so that all leave at the same step."""
        if self.fabric.world_size == 1:
            return stop.is_set()
        asked = torch.tensor(float(stop.is_set()), device=self.fabric.device)
        return self.fabric.all_reduce(asked, reduce_op="sum").item() > 0

    def _end_epoch(self, started: float) -> None:
        state, config = self.state, self.config
        self._share_buffers()
        scores, zeros, _ = score_trials(
            self.fabric,
            state.model,
            self.dev_split,
            config.eval_samples,
            batch_size=config.batch_size,
            workers=self.workers,
            track=scoring_progress(self.console, self.fabric.is_global_zero),
        )
        metrics = compute_metrics(scores, self.dev_labels)
        steps = len(self.batches)
        record = {
            "epoch": state.epoch + 1,
            "train_loss": state.loss_sum / steps,
            "lr": learning_rate(config, (state.epoch + 1) * steps, config.epochs * steps),
            "dev_eer": metrics.eer,
            "dev_min_dcf": metrics.min_dcf,
            "dev_zero_fraction": zeros,
            "seconds": round(time.monotonic() - started, 3),
        }
        improved = metrics.eer < state.best_eer
        state.best_eer = min(state.best_eer, metrics.eer)
        state.history.append(record)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        if self.fabric.is_global_zero:
            if improved:
                save_model(
                    state.model,
                    self.folder.best,
                    scoring={
                        "samples": config.eval_samples,
                        "calibration": fit_calibration(scores, self.dev_labels).to_dict(),
                    },
                    selected=record,
                )
            self.folder.write_metrics(state.history)
            self.console.print(
                f"epoch {record['epoch']:>3}/{config.epochs}  loss {record['train_loss']:.4f}  "
                f"dev EER {100 * metrics.eer:.2f} %  minDCF {metrics.min_dcf:.4f}  "
                f"zeros {100 * zeros:.2f} %" + ("  best" if improved else "")
            )
        self._save_last()

    def _save_last(self) -> None:
        states = {"cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        self.state.rng = {name: self._gather(value) for name, value in states.items()}
        if self.fabric.world_size > 1:
            total = torch.tensor(
                self.state.loss_sum, dtype=torch.float64, device=self.fabric.device
            )
            self.state.loss_sum = self.fabric.all_reduce(total).item()
        if self.fabric.is_global_zero:
            self.state.save(self.folder.last)

    def _share_buffers(self) -> None:
        """Give all processes the running statistics of the first, which are the ones saved."""
        if self.fabric.world_size > 1:
            for buffer in self.state.model.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))

    def _gather(self, value: torch.Tensor) -> torch.Tensor:
        """Return the bytes of all processes, (processes, bytes), by a sum over one row each."""
        rows = torch.zeros(self.fabric.world_size, len(value), dtype=torch.int32)
        rows[self.fabric.global_rank] = value.int()
        rows = self.fabric.all_reduce(rows.to(self.fabric.device), reduce_op="sum")
        return rows.to("cpu", torch.uint8)

    def _restore_rng(self) -> None:
        rank, states = self.fabric.global_rank, self.state.rng
        if len(states["cpu"]) != self.fabric.world_size:
            raise SparseAasistError(
                f"devices is {self.fabric.world_size} but the run was started with "
                f"{len(states['cpu'])}; resume with as many"
            )
        # A copy: torch reads the storage of a row of a matrix from its start, not from the row.
        torch.set_rng_state(states["cpu"][rank].clone())
        if "cuda" in states and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"][rank].clone(), self.fabric.device)

    def _diverged(self, loss: float, index: torch.Tensor) -> SparseAasistError:
        names = ", ".join(self.trials.split.trials[i].name for i in index.tolist()[:5])
        return SparseAasistError(
            f"the loss is {loss} in epoch {self.state.epoch + 1}, step {self.state.step + 1} "
            f"(trials {names}, ...); lower the learning rate"
        )


def _check_lengths(config: TrainingConfig, model: AASIST) -> None:
    for name in ("train_samples", "eval_samples"):
        if getattr(config, name) < model.min_samples:
            raise SparseAasistError(
                f"{name} must be at least {model.min_samples} for this model, "
                f"got {getattr(config, name)}"
            )


def _labels(split: Split) -> list[int]:
    withheld = next((trial.name for trial in split.trials if trial.label is None), None)
    if withheld is not None:
        raise SparseAasistError(
            f"{split.name}: trial {withheld} has no label; selecting a model needs every label"
        )
    labels = [trial.label for trial in split.trials]
    if len(set(labels)) < 2:
        raise SparseAasistError(f"{split.name}: selecting a model needs both classes")
    return labels


def default_workers(fabric: Fabric, workers: int | None) -> int:
    if workers is not None:
        return workers
    # On a CPU decoding costs a few percent of a step and loader processes would steal its cores.
    return 0 if fabric.device.type == "cpu" else min(8, os.cpu_count() or 1)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event during a run; a second signal acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
