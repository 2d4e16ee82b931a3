"""Batches: fixed by seed, epoch and position; crops independent of loader workers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthetic import make_corpus
from torch.utils.data import DataLoader

from sparse_aasist.data.audio import read_trial_audio
from sparse_aasist.data.dataset import EpochBatches, ScoringTrials, TrainingTrials, collate
from sparse_aasist.data.protocol import open_split
from sparse_aasist.errors import ProtocolError, SparseAasistError


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return open_split(make_corpus(tmp_path_factory.mktemp("corpus")), "train")


def addresses(**seek) -> list[list[tuple[int, int]]]:
    batches = EpochBatches(11, batch_size=4, seed=7)
    batches.seek(**seek)
    return list(batches)


def test_an_epoch_is_a_permutation_without_its_last_smaller_batch():
    batches = addresses(epoch=3, position=0)
    indices = [index for batch in batches for _, index in batch]
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(indices)) == 8 and set(indices) <= set(range(11))
    assert {epoch for batch in batches for epoch, _ in batch} == {3}
    assert batches != addresses(epoch=4, position=0)


def test_seek_continues_where_an_epoch_was_left():
    assert addresses(epoch=3, position=1) == addresses(epoch=3, position=0)[1:]


def test_ranks_share_every_batch():
    whole = addresses(epoch=0, position=0)
    shares = [list(EpochBatches(11, 4, 7, rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch) and len(first) == len(second) == 2


def test_batch_that_cannot_be_is_refused():
    with pytest.raises(SparseAasistError, match="batch_size 24 is larger than the 11 training"):
        EpochBatches(11, 24, 7)
    with pytest.raises(SparseAasistError, match="batch_size 4 cannot be shared by 3 devices"):
        EpochBatches(11, 4, 7, 0, 3)


def test_crops_do_not_depend_on_loader_workers(split):
    def load(workers: int) -> list[torch.Tensor]:
        batches = EpochBatches(len(split.trials), 4, seed=1)
        loader = DataLoader(
            TrainingTrials(split, 3000, seed=1),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
        )
        return [batch.waveform for batch in loader]

    for alone, shared in zip(load(0), load(2), strict=True):
        assert torch.equal(alone, shared)


def test_crop_lies_in_its_file_and_changes_with_the_epoch(split):
    trials = TrainingTrials(split, 3000, seed=1)
    whole = read_trial_audio(split.audio_path(split.trials[5]))
    crop, label, index = trials[0, 5]
    windows = np.lib.stride_tricks.sliding_window_view(whole, 3000)
    assert (windows == crop.numpy()).all(axis=1).any()
    assert (label, index) == (split.trials[5].label, 5)
    assert not torch.equal(crop, trials[1, 5][0])


def test_scoring_takes_the_first_samples_and_repeats_short_audio(split):
    whole = read_trial_audio(split.audio_path(split.trials[0]))
    crop, _, _ = ScoringTrials(split, len(whole) + 100)[0]
    assert np.array_equal(crop[: len(whole)], whole) and np.array_equal(crop[-100:], whole[:100])


def test_withheld_label_and_single_class_are_refused(split):
    withheld = dataclasses.replace(split.trials[0], attack="-", label=None)
    with pytest.raises(ProtocolError, match=f"trial {withheld.name} has no label"):
        TrainingTrials(dataclasses.replace(split, trials=(withheld, *split.trials[1:])), 3000, 1)
    bonafide = tuple(trial for trial in split.trials if trial.label == 1)
    with pytest.raises(ProtocolError, match="both bona fide and spoof"):
        TrainingTrials(dataclasses.replace(split, trials=bonafide), 3000, 1)
