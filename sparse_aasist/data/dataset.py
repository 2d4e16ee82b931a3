"""Trials as tensors: cropped waveforms in an order that a seed, an epoch and a position fix.

Crops draw from a generator made from (seed, epoch, trial), so that the number of loader workers
and an interruption in mid-epoch change nothing. Crop lengths and repeat padding follow
asvspoof-challenge/asvspoof5, Baseline-AASIST/data_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sparse_aasist.data.audio import first_crop, random_crop, read_trial_audio
from sparse_aasist.data.protocol import Split
from sparse_aasist.errors import AudioError, ProtocolError, SparseAasistError


class Batch(NamedTuple):
    """A batch of B trials.

    Attributes:
        waveform: float32 (B, samples).
        label: int64 (B,), 1 bona fide, 0 spoof, -1 withheld.
        index: int64 (B,), position of the trial in its split.
    """

    waveform: Tensor
    label: Tensor
    index: Tensor


Waveform = NDArray[np.float32]
Item = tuple[Tensor, int, int] | AudioError
"""Crop, label and index of a trial, or why its audio cannot be used."""


class TrainingTrials(Dataset):
    """Random crops of the trials of a split, addressed by (epoch, index).

    Raises:
        ProtocolError: a label is withheld, or one of the two classes is absent.
    """

    def __init__(self, split: Split, samples: int, seed: int) -> None:
        withheld = next((trial for trial in split.trials if trial.label is None), None)
        if withheld is not None:
            raise ProtocolError(
                f"{split.name}: trial {withheld.name} has no label; training needs every label"
            )
        if len({trial.label for trial in split.trials}) < 2:
            raise ProtocolError(f"{split.name}: training needs both bona fide and spoof trials")
        self.split, self.samples, self.seed = split, samples, seed

    def __len__(self) -> int:
        return len(self.split.trials)

    def __getitem__(self, address: tuple[int, int]) -> Item:
        epoch, index = address
        rng = np.random.default_rng((self.seed, epoch, index))
        return _load(self.split, index, lambda audio: random_crop(audio, self.samples, rng))


class ScoringTrials(Dataset):
    """The first `samples` samples of each trial of a split, repeated where it is shorter."""

    def __init__(self, split: Split, samples: int) -> None:
        self.split, self.samples = split, samples

    def __len__(self) -> int:
        return len(self.split.trials)

    def __getitem__(self, index: int) -> Item:
        return _load(self.split, index, lambda audio: first_crop(audio, self.samples))


class EpochBatches(Sampler):
    """Yield the batches of one epoch as lists of (epoch, index), from a position on.

    The permutation is a function of (seed, epoch) alone, and the last, smaller batch is left out.

    Args:
        trials: number of trials.
        batch_size: trials per batch over all processes.
        seed: of the run.
        rank: of this process.
        world_size: number of processes; each takes its slice of every batch.

    Raises:
        SparseAasistError: there are fewer trials than one batch, or it cannot be shared out.
    """

    def __init__(
        self, trials: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if trials < batch_size:
            raise SparseAasistError(
                f"batch_size {batch_size} is larger than the {trials} training trials; lower it"
            )
        if batch_size % world_size:
            raise SparseAasistError(
                f"batch_size {batch_size} cannot be shared by {world_size} devices; "
                "choose a multiple"
            )
        self.trials, self.batch_size, self.seed = trials, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return self.trials // self.batch_size

    def seek(self, epoch: int, position: int) -> None:
        """Continue with batch `position` of `epoch`."""
        self.epoch, self.position = epoch, position

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.trials)
        for step in range(self.position, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


def _load(split: Split, index: int, crop: Callable[[Waveform], Waveform]) -> Item:
    trial = split.trials[index]
    try:
        waveform = crop(read_trial_audio(split.audio_path(trial)))
    except AudioError as error:
        # An exception that leaves a loader process comes back with a traceback for its message.
        return error
    return torch.from_numpy(waveform), -1 if trial.label is None else trial.label, index


def collate(items: list[Item]) -> Batch | AudioError:
    """Stack single trials into a `Batch`, or hand on the first error; see `checked`."""
    for item in items:
        if isinstance(item, AudioError):
            return item
    waveforms, labels, indices = zip(*items, strict=True)
    return Batch(torch.stack(waveforms), torch.tensor(labels), torch.tensor(indices))


def checked(batches: Iterable[Batch | AudioError]) -> Iterator[Batch]:
    """Yield the batches of a loader that uses `collate`.

    Raises:
        AudioError: a file cannot be used; names it.
    """
    for batch in batches:
        if isinstance(batch, AudioError):
            raise batch
        yield batch
