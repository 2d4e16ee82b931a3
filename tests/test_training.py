"""Training: it learns, stops and resumes bit for bit, selects on dev, and refuses bad settings."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from synthetic import make_corpus
from tiny_model import RECIPE, SMALL

from sparse_aasist.data.dataset import TrainingTrials
from sparse_aasist.errors import CheckpointError, SparseAasistError
from sparse_aasist.models import AASIST
from sparse_aasist.models.checkpoint import read_tensors
from sparse_aasist.ops import backend
from sparse_aasist.training import loop
from sparse_aasist.training.config import PRESETS, TrainingConfig
from sparse_aasist.training.loop import Interrupted, train
from sparse_aasist.training.state import TrainingState, learning_rate

CONFIG = dataclasses.replace(RECIPE, epochs=3, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), trials_per_split=16)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    quiet(CONFIG, corpus, folder)
    return folder


def quiet(config, corpus, folder, **options):
    # Trials are loaded by this process, on a GPU too: tests patch what loads them.
    options = {"workers": 0, **options}
    return train(config, corpus, folder, console=Console(file=io.StringIO()), **options)


def tensors(folder, name="last"):
    return read_tensors(folder / f"{name}.safetensors")[0]


def interrupt_after(monkeypatch, loads: int) -> None:
    """Send the process the signal of a job manager while it loads its n-th trial."""
    original, count = TrainingTrials.__getitem__, iter(range(10**9))

    def load(self, address):
        if next(count) == loads:
            signal.raise_signal(signal.SIGTERM)
        return original(self, address)

    monkeypatch.setattr(TrainingTrials, "__getitem__", load)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("loads", [5, 22])  # inside the first and the second epoch
def test_interrupted_in_mid_epoch_and_resumed_gives_the_same_run(
    corpus, tmp_path, monkeypatch, loads, precision
):
    config = dataclasses.replace(CONFIG, precision=precision)
    finished, folder = tmp_path / "whole", tmp_path / "run"
    quiet(config, corpus, finished)
    with monkeypatch.context() as patch:
        interrupt_after(patch, loads)
        with pytest.raises(Interrupted):
            quiet(config, corpus, folder)
    progress = read_tensors(folder / "last.safetensors")[1]["training"]["progress"]
    assert progress["step"] > 0, "the interruption must fall inside an epoch"
    quiet(config, corpus, folder, resume=True)
    for name in ("last", "best"):
        expected, resumed = tensors(finished, name), tensors(folder, name)
        assert expected.keys() == resumed.keys()
        assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert without_time(folder) == without_time(finished)


def without_time(folder) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_killed_between_saves_resumes_to_the_same_weights(corpus, finished, tmp_path, monkeypatch):
    """A kill leaves the last saved state; the steps since then are done again, equally."""
    folder = tmp_path / "run"
    monkeypatch.setattr(loop, "SAVE_EVERY_STEPS", 3)

    class Killed(BaseException):
        pass

    original, count = TrainingTrials.__getitem__, iter(range(10**9))

    def load(self, address):
        if next(count) == 30:
            raise Killed
        return original(self, address)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingTrials, "__getitem__", load)
        with pytest.raises(Killed):
            quiet(CONFIG, corpus, folder)
    quiet(CONFIG, corpus, folder, resume=True)
    expected, resumed = tensors(finished), tensors(folder)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_asked_to_stop_while_dev_is_scored_stops_before_the_next_epoch(
    corpus, finished, tmp_path, monkeypatch
):
    folder, original = tmp_path / "run", loop.score_trials

    def score(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "score_trials", score)
        with pytest.raises(Interrupted):
            quiet(CONFIG, corpus, folder)
    assert len(without_time(folder)) == 1
    quiet(CONFIG, corpus, folder, resume=True)
    expected, resumed = tensors(finished), tensors(folder)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_a_run_that_failed_before_its_first_save_can_be_started_again(
    corpus, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop.F, "cross_entropy", lambda logits, *_a, **_k: logits.sum() * math.nan)
        with pytest.raises(SparseAasistError, match="loss is nan"):
            quiet(CONFIG, corpus, folder)
    quiet(dataclasses.replace(CONFIG, epochs=1), corpus, folder)


def test_resume_on_other_trials_is_refused(corpus, finished, tmp_path):
    other = shutil.copytree(corpus, tmp_path / "corpus")
    protocol = other / "ASVspoof5.train.tsv"
    protocol.write_text("".join(protocol.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CheckpointError, match=r"last.safetensors: was trained on other trials"):
        quiet(CONFIG, other, finished, resume=True)


@pytest.mark.needs_cuda
def test_resume_on_a_gpu_keeps_the_moments_there(corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 22)
        with pytest.raises(Interrupted):
            quiet(CONFIG, corpus, tmp_path / "run")
    quiet(CONFIG, corpus, tmp_path / "run", resume=True)
    assert len(without_time(tmp_path / "run")) == CONFIG.epochs


def test_run_folder_tells_what_was_done(finished):
    config = json.loads((finished / "config.json").read_text())
    assert TrainingConfig.from_dict(config["training"]) == CONFIG
    assert config["environment"]["torch"] == torch.__version__
    records = without_time(finished)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["lr"] == pytest.approx(CONFIG.lr_min)
    assert records[0]["dev_zero_fraction"] >= 1 - 5 / 20
    assert list((finished / "tensorboard").iterdir())


def test_best_is_selected_on_dev_and_starts_at_infinity(finished):
    records = without_time(finished)
    _, metadata = read_tensors(finished / "best.safetensors")
    lowest = min(record["dev_eer"] for record in records)
    first = next(record for record in records if record["dev_eer"] == lowest)
    selected = {k: v for k, v in metadata["selected"].items() if k != "seconds"}
    assert selected == first
    assert math.isinf(TrainingState.fresh(CONFIG).best_eer)


def test_it_learns_a_separable_corpus(corpus, tmp_path):
    # With other seeds the loss of so few trials falls less, with the same dev EER.
    config = dataclasses.replace(CONFIG, epochs=20, seed=6)
    quiet(config, corpus, tmp_path / "run")
    records = without_time(tmp_path / "run")
    losses = [record["train_loss"] for record in records]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert max(record["dev_eer"] for record in records[-5:]) < 0.2


def test_kernels_and_pytorch_train_alike(corpus, finished, tmp_path):
    with backend("reference"):
        quiet(CONFIG, corpus, tmp_path / "run")
    expected, got = without_time(tmp_path / "run"), without_time(finished)
    for record, other in zip(expected, got, strict=True):
        assert record == pytest.approx(other, rel=1e-3)


def test_eval_split_is_never_opened(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    shutil.rmtree(copy / "flac_E_eval")
    (copy / "ASVspoof5.eval.track_1.tsv").unlink()
    quiet(dataclasses.replace(CONFIG, epochs=1), copy, tmp_path / "run")


def test_checkpoints_load_as_models(finished):
    for name in ("best", "last"):
        assert AASIST.from_checkpoint(finished / f"{name}.safetensors").config == SMALL


def test_resume_with_other_settings_names_them(corpus, finished):
    other = dataclasses.replace(CONFIG, lr=1e-4, epochs=5)
    with pytest.raises(CheckpointError, match=r"last.safetensors: was trained with another epochs"):
        quiet(other, corpus, finished, resume=True)


def test_resume_needs_a_run_and_a_run_needs_resume(corpus, finished, tmp_path):
    with pytest.raises(SparseAasistError, match="nothing to resume"):
        quiet(CONFIG, corpus, tmp_path / "new", resume=True)
    with pytest.raises(SparseAasistError, match="holds a run already; add --resume"):
        quiet(CONFIG, corpus, finished)


def test_best_checkpoint_cannot_be_resumed(corpus, finished):
    with pytest.raises(CheckpointError, match="holds no training state"):
        TrainingState.fresh(CONFIG).load(finished / "best.safetensors")


@pytest.mark.parametrize("name", ["train_samples", "eval_samples"])
def test_crops_too_short_for_the_model_are_refused_before_training(corpus, tmp_path, name):
    short = dataclasses.replace(CONFIG, **{name: 500})
    with pytest.raises(SparseAasistError, match=f"{name} must be at least 22"):
        quiet(short, corpus, tmp_path / "run")


@pytest.mark.parametrize(
    ("label", "message"), [("-", "has no label"), ("bonafide", "both classes")]
)
def test_dev_without_both_labels_is_refused_before_training(corpus, tmp_path, label, message):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    protocol = copy / "ASVspoof5.dev.track_1.tsv"
    rows = [line.split() for line in protocol.read_text().splitlines()]
    protocol.write_text("".join(f"- {row[1]} - - - - - {label} {label} -\n" for row in rows))
    with pytest.raises(SparseAasistError, match=message):
        quiet(CONFIG, copy, tmp_path / "run")


def test_unwritable_output_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_a: False)
    with pytest.raises(SparseAasistError, match="run: the output directory is not writable"):
        quiet(CONFIG, corpus, tmp_path / "run")


def test_output_that_cannot_be_made_is_named(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SparseAasistError, match="file/run: cannot create the output directory"):
        quiet(CONFIG, corpus, tmp_path / "file" / "run")


def test_diverged_loss_names_epoch_step_and_trials(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop.F, "cross_entropy", lambda logits, *_a, **_k: logits.sum() * float("nan")
    )
    with pytest.raises(SparseAasistError, match=r"loss is nan in epoch 1, step 1 \(trials T_"):
        quiet(CONFIG, corpus, tmp_path / "run")


def test_what_is_saved_is_from_before_the_step_that_diverged(
    corpus, finished, tmp_path, monkeypatch
):
    folder, original, calls = tmp_path / "run", loop.F.cross_entropy, iter(range(10**9))

    def diverge(logits, *arguments, **options):
        loss = original(logits, *arguments, **options)
        return loss * float("nan") if next(calls) == 2 else loss

    monkeypatch.setattr(loop, "SAVE_EVERY_STEPS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(loop.F, "cross_entropy", diverge)
        with pytest.raises(SparseAasistError, match="loss is nan in epoch 1, step 3"):
            quiet(CONFIG, corpus, folder)
    progress = read_tensors(folder / "last.safetensors")[1]["training"]["progress"]
    assert progress["step"] == 2
    quiet(CONFIG, corpus, folder, resume=True)
    expected, resumed = tensors(finished), tensors(folder)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_learning_rate_is_a_cosine_per_step():
    config = TrainingConfig()
    assert learning_rate(config, 0, 100) == pytest.approx(1e-4)
    assert learning_rate(config, 50, 100) == pytest.approx((1e-4 + 5e-6) / 2)
    assert learning_rate(config, 100, 100) == pytest.approx(5e-6)


def test_defaults_are_the_official_recipe():
    config = TrainingConfig()
    assert PRESETS["asvspoof5"] == {}
    assert (config.epochs, config.batch_size, config.seed) == (100, 24, 1234)
    assert (config.lr, config.lr_min, config.weight_decay) == (1e-4, 5e-6, 1e-4)
    assert config.class_weights == (0.1, 0.9)
    assert config.train_samples == config.eval_samples == 64_600
    optimizer = TrainingState.fresh(dataclasses.replace(config, model=SMALL)).optimizer
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.999) and not optimizer.defaults["amsgrad"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"lr": 1e-6}, "lr_min must lie between 0 and lr"),
        ({"seed": -1}, "seed must lie between 0"),
        ({"seed": 2**70}, "seed must lie between 0"),
        ({"class_weights": (0.1, 0.2, 0.7)}, "class_weights must be two positive"),
        ({"precision": "16-mixed"}, "precision must be one of"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(SparseAasistError, match=message):
        TrainingConfig(**options)


@pytest.mark.slow
def test_two_processes_share_the_batch_and_resume_their_own_generators(corpus, tmp_path):
    """Two processes that stop in the second epoch continue to the weights of a whole run."""
    script = Path(__file__).with_name("two_processes.py")

    def run(folder: str, *more: str) -> None:
        subprocess.run(
            [sys.executable, script, corpus, tmp_path / folder, *more],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )

    run("whole")
    run("parts", "--stop-at", "6")
    first, second = tensors(tmp_path / "parts")["rng.cpu"]
    assert not torch.equal(first, second), "the processes must not drop out the same units"
    run("parts", "--resume")
    expected, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert without_time(tmp_path / "whole") == without_time(tmp_path / "parts")
