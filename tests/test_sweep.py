"""Sweeps: the plan, sharing and resuming of runs, failures, and data that changed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console
from synthetic import make_corpus
from tiny_model import RECIPE

from sparse_aasist.data.protocol import open_split
from sparse_aasist.embeddings import Embeddings, embeddings_path
from sparse_aasist.errors import ScoreError, SparseAasistError
from sparse_aasist.evaluation import read_scores
from sparse_aasist.models import AASIST
from sparse_aasist.models.checkpoint import read_tensors
from sparse_aasist.sweep import runner
from sparse_aasist.sweep.folder import SweepFolder
from sparse_aasist.sweep.grid import Grid, parse_counts, run_name
from sparse_aasist.sweep.runner import run_sweep
from sparse_aasist.training.config import TrainingConfig

GRID = Grid(dims=(20,), ks=(5, "dense"), seeds=(1,))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), trials_per_split=16)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = SweepFolder(tmp_path_factory.mktemp("sweep"))
    folder.add(GRID.runs(RECIPE), corpus)
    assert quiet(folder, corpus) == {}
    return folder


def quiet(folder, data, **options):
    return run_sweep(folder, data, console=Console(file=io.StringIO()), **options)


def test_the_runs_are_the_product_of_the_axes_and_dense_is_k_equal_to_dim():
    grid = Grid(dims=(160, 320), ks=(20, 160, "dense"), seeds=(7, 8))
    names = [run_name(config) for config in grid.runs(TrainingConfig())]
    assert names == [
        f"{configuration}_seed{seed}"
        for seed in (7, 8)
        for configuration in (
            "dim160_k20", "dim160_dense", "dim320_k20", "dim320_k160", "dim320_dense"
        )
    ]  # fmt: skip


def test_departures_from_the_defaults_are_named():
    grid = Grid(
        dims=(20,),
        ks=(5, "dense"),
        seeds=(1,),
        sigmoids=(True,),
        topk_bys=("abs",),
        topk_orders=("after_dropout",),
    )
    names = [run_name(config) for config in grid.runs(RECIPE)]
    assert names == ["dim20_k5_sigmoid_abs_after_dropout_seed1", "dim20_dense_sigmoid_seed1"]


def test_the_dense_model_is_run_once_whatever_is_ranked():
    grid = Grid(dims=(20,), ks=(5, "dense"), seeds=(1,), topk_bys=("value", "abs"))
    names = [run_name(config) for config in grid.runs(RECIPE)]
    assert names == ["dim20_k5_seed1", "dim20_k5_abs_seed1", "dim20_dense_seed1"]


def test_faulty_grids_are_refused():
    with pytest.raises(SparseAasistError, match="seeds of a grid must name at least one value"):
        Grid(seeds=())
    with pytest.raises(SparseAasistError, match=r"ks of a grid .* each once"):
        Grid(ks=(20, 20))
    with pytest.raises(SparseAasistError, match="k must be between 1 and dim = 160"):
        Grid(dims=(160,), ks=(200,)).runs(TrainingConfig())
    with pytest.raises(SparseAasistError, match="integers and the word dense, got 20 all"):
        parse_counts(["20", "all"])


def test_a_run_leaves_scores_and_embeddings_that_belong_together(finished, corpus):
    for run in finished.runs():
        for name in ("dev", "eval"):
            trials = open_split(corpus, name).trials
            scores = read_scores(run.scores(name))
            found = Embeddings.load(embeddings_path(run.path, name))
            assert list(scores) == list(found.names) == [trial.name for trial in trials]
            again = found.embeddings @ found.delta + found.bias
            np.testing.assert_allclose(again, list(scores.values()), atol=1e-5)
        model = AASIST.from_checkpoint(run.files.best)
        kept = np.count_nonzero(found.embeddings, axis=1)
        assert model.config.dim == 20 and kept.max() <= model.config.k
        summary = json.loads(run.summary.read_text())
        assert summary["zero_fraction"]["eval"] == pytest.approx(1 - kept.mean() / 20)
        assert summary["epochs"] == 2


def test_finished_runs_are_not_touched_again_and_the_grid_can_grow(finished, corpus, tmp_path):
    shutil.copytree(finished.path, tmp_path, dirs_exist_ok=True)
    folder = SweepFolder(tmp_path)
    before = {run.name: run.summary.stat().st_mtime_ns for run in folder.runs()}
    folder.add(dataclasses.replace(GRID, ks=("dense", 3)).runs(RECIPE), corpus)
    assert [run.name for run in folder.runs()][2:] == ["dim20_k3_seed1"]
    assert quiet(folder, corpus) == {}
    after = {run.name: run.summary.stat().st_mtime_ns for run in folder.runs()}
    assert after.keys() > before.keys() and before.items() <= after.items()


def test_interrupted_sweep_continues_to_the_same_weights(finished, corpus, tmp_path):
    folder = SweepFolder(tmp_path)
    folder.add(GRID.runs(RECIPE), corpus)
    first = folder.runs()[0]
    process = start_sweep(tmp_path, corpus)
    wait_until(lambda: first.epochs_done() >= 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not all(run.is_finished for run in folder.runs())
    assert not any(run.is_locked for run in folder.runs())
    assert quiet(folder, corpus) == {}
    for run, whole in zip(folder.runs(), finished.runs(), strict=True):
        ours, theirs = (read_tensors(r.files.best)[0] for r in (run, whole))
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        assert run.scores("eval").read_bytes() == whole.scores("eval").read_bytes()


def test_two_sweeps_on_one_folder_share_the_runs(corpus, tmp_path):
    folder = SweepFolder(tmp_path)
    folder.add(GRID.runs(RECIPE), corpus)
    processes = [start_sweep(tmp_path, corpus) for _ in range(2)]
    assert [process.wait(240) for process in processes] == [0, 0]
    for run in folder.runs():
        assert run.is_finished
        assert run.log.read_text().count("epoch   1/2") == 1


def test_a_failing_run_is_reported_and_the_others_go_on(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    folder = SweepFolder(tmp_path / "sweep")
    configs = GRID.runs(RECIPE)
    too_large = dataclasses.replace(configs[0], batch_size=64)
    folder.add([too_large], tmp_path / "data")
    (failure,) = quiet(folder, tmp_path / "data").items()
    assert failure[0] == "dim20_k5_seed1"
    assert failure[1].startswith("error: batch_size 64 is larger than the 16 training trials")

    damaged = next((tmp_path / "data" / "flac_E_eval").iterdir())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    folder = SweepFolder(tmp_path / "other")
    folder.add(configs, tmp_path / "data")
    first, second = folder.runs()
    (second.path / "config.json").mkdir(parents=True)  # a folder where a file should be
    failed = quiet(folder, tmp_path / "data")
    assert damaged.name in failed[first.name] and "config.json" in failed[second.name]
    damaged.write_bytes(whole)
    failed = quiet(folder, tmp_path / "data")
    assert failed.keys() == {second.name} and first.is_finished
    assert first.log.read_text().count("epoch   1/2") == 1  # trained once, then scored


def test_a_killed_run_is_reported_as_that_and_not_by_its_last_words(tmp_path, corpus, monkeypatch):
    folder = SweepFolder(tmp_path)
    folder.add(GRID.runs(RECIPE), corpus)

    def die(_folder, run, *_):
        run.log.write_text("epoch 1/2 all is well\n")
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(runner, "_start", die)
    failed = quiet(folder, corpus)
    assert len(failed) == 2
    assert all(reason.startswith("killed by signal 9") for reason in failed.values())


@pytest.mark.parametrize("fault", [OSError("stale file handle"), KeyboardInterrupt()])
def test_whatever_stops_a_sweep_stops_its_runs(tmp_path, corpus, monkeypatch, fault):
    folder = SweepFolder(tmp_path)
    folder.add(GRID.runs(RECIPE), corpus)
    started = []

    def wait(*_):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))
        return started[-1]

    def fail(*_):
        raise fault

    monkeypatch.setattr(runner, "_start", wait)
    monkeypatch.setattr(runner, "_collect", fail)
    with pytest.raises(type(fault)):
        quiet(folder, corpus, workers=2)
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2


def test_another_recipe_or_other_data_do_not_join_a_sweep(finished, corpus, tmp_path):
    with pytest.raises(SparseAasistError, match="a sweep with another epochs, lr"):
        other = dataclasses.replace(RECIPE, epochs=3, lr=1e-3)
        finished.add(GRID.runs(other), corpus)
    data = make_corpus(tmp_path / "data", trials_per_split=12)
    with pytest.raises(SparseAasistError, match=r"a sweep on other trials .*use the same --data"):
        finished.add(GRID.runs(RECIPE), data)
    with pytest.raises(SparseAasistError, match="its protocols are not those"):
        finished.splits(data)
    with pytest.raises(SparseAasistError, match=r"holds no sweep \(no sweep.json there\)"):
        SweepFolder(tmp_path / "data").runs()


def test_embeddings_that_are_damaged_or_of_other_trials_are_refused(finished, tmp_path):
    run = finished.runs()[0]
    path = tmp_path / "dev_embeddings.npz"
    path.write_bytes(embeddings_path(run.path, "dev").read_bytes()[:-100])
    with pytest.raises(ScoreError, match="not a readable file of embeddings"):
        Embeddings.load(path)
    whole = bytearray(embeddings_path(run.path, "dev").read_bytes())
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(ScoreError):  # any other error fails the test
            Embeddings.load(path)
    found = Embeddings.load(embeddings_path(run.path, "dev"))
    with pytest.raises(ScoreError, match="trial X has no embedding"):
        found.of([*found.names[1:], "X"], path)
    with pytest.raises(ScoreError, match=f"{found.names[0]} is no trial of the protocol"):
        found.of(found.names[1:], path)
    reordered = found.of(found.names[::-1], path)
    assert (reordered.embeddings == found.embeddings[::-1]).all()
    found.embeddings[3, 2] = np.nan
    found.save(path)
    with pytest.raises(ScoreError, match=f"of trial {found.names[3]} is not finite"):
        Embeddings.load(path)


def start_sweep(folder, data):
    code = (
        "import sys\n"
        "from sparse_aasist.sweep.folder import SweepFolder\n"
        "from sparse_aasist.sweep.runner import run_sweep\n"
        "try:\n"
        "    failed = run_sweep(SweepFolder(sys.argv[1]), sys.argv[2])\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
        "sys.exit(bool(failed))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(data)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
