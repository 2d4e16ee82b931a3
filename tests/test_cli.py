"""The console command, end to end on a synthetic corpus, and its one-sentence errors."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from synthetic import make_corpus

from sparse_aasist.cli import main
from sparse_aasist.data.protocol import SPLITS, open_split, write_protocol
from sparse_aasist.embeddings import Embeddings
from sparse_aasist.evaluation.metrics import compute_metrics
from sparse_aasist.evaluation.scores import match_scores, read_scores, write_scores
from sparse_aasist.models import AASIST

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--epochs", "1", "--batch-size", "4", "--preset", "demo", "--precision", "32-true"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), trials_per_split=8, seconds=0.3)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = ["train", "--k", "4", "--dim", "20", "--data", str(corpus), "--output", str(folder)]
    assert main([*command, *SHORT]) == 0
    return folder


def evaluate(run, corpus, *more: str) -> int:
    return main(["evaluate", str(run / "best.safetensors"), "--data", str(corpus), *more])


def test_evaluate_writes_scores_metrics_and_figure(run, corpus, capsys):
    assert evaluate(run, corpus) == 0
    trials = open_split(corpus, "eval").trials
    scores = match_scores(trials, read_scores(run / "eval_scores.tsv"))
    record = json.loads((run / "eval_metrics.json").read_text())
    expected = compute_metrics(scores, [trial.label for trial in trials])
    assert record["rows"][0]["eer"] == expected.eer
    assert {row["name"] for row in record["rows"]} >= {"pooled", "seen attacks", "unseen attacks"}
    assert record["zero_fraction"] >= 1 - 4 / 20
    assert (run / "eval.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "pooled" in printed and "exact zeros in the embedding" in printed


def test_scores_are_logit_differences_in_protocol_order(run, corpus, tmp_path):
    assert evaluate(run, corpus, "--split", "dev", "--output", str(tmp_path)) == 0
    split = open_split(corpus, "dev")
    model = AASIST.from_checkpoint(run / "best.safetensors")
    scores = read_scores(tmp_path / "dev_scores.tsv")
    assert list(scores) == [trial.name for trial in split.trials]
    audio, _ = soundfile.read(split.audio_path(split.trials[3]), dtype="float32")
    waveform = torch.from_numpy(np.resize(audio, 16_000)).unsqueeze(0)
    with torch.no_grad():
        logits = model(waveform).logits[0]
    assert scores[split.trials[3].name] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_embeddings_and_their_head_give_the_scores_again(run, corpus, tmp_path):
    arguments = ["--split", "train", "--embeddings", "--output", str(tmp_path)]
    assert evaluate(run, corpus, *arguments) == 0
    found = Embeddings.load(tmp_path / "train_embeddings.npz")
    scores = read_scores(tmp_path / "train_scores.tsv")
    assert found.names == tuple(scores) == tuple(t.name for t in open_split(corpus, "train").trials)
    again = found.embeddings @ found.delta + found.bias
    np.testing.assert_allclose(again, list(scores.values()), atol=1e-5)


def test_several_codecs_get_a_table_of_attacks_by_codec(run, corpus, tmp_path, capsys):
    data = shutil.copytree(corpus, tmp_path / "data")
    trials = [
        dataclasses.replace(trial, codec="C01" if index < 4 else "-")
        for index, trial in enumerate(open_split(corpus, "eval").trials)
    ]
    write_protocol(data / SPLITS["eval"][1], trials)
    assert evaluate(run, data, "--output", str(tmp_path)) == 0
    scores = match_scores(trials, read_scores(tmp_path / "eval_scores.tsv"))
    with open(tmp_path / "eval_eer_by_codec.csv") as file:
        rows = {row["attack"]: row for row in csv.DictReader(file)}
    labels = np.array([trial.label for trial in trials])
    coded = compute_metrics(scores[:4], labels[:4]).eer
    assert float(rows["pooled"]["C01"]) == coded
    assert float(rows["pooled"]["pooled"]) == compute_metrics(scores, labels).eer
    assert (tmp_path / "eval_eer_by_codec.tex").read_text().count(r"\\") == len(rows) + 1
    assert "eval_eer_by_codec.csv" in capsys.readouterr().out


def test_compare_tells_the_paired_difference_of_score_files(corpus, tmp_path, capsys):
    trials = open_split(corpus, "eval").trials
    labels = np.array([trial.label for trial in trials])
    files = [tmp_path / f"{name}.tsv" for name in ("perfect", "flipped")]
    for file, sign in zip(files, (1.0, -1.0), strict=True):
        write_scores(file, [trial.name for trial in trials], sign * (2.0 * labels - 1.0))
    command = ["compare", "--a", str(files[0]), "--b", str(files[1]), "--data", str(corpus)]
    assert main(command) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("EER"))
    assert row.split()[2:5] == ["0.00", "100.00", "-100.00"]

    files[1].write_text(files[1].read_text().rsplit("\n", 2)[0] + "\n")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "flipped.tsv" in error and "1 of 8 trials have no score" in error


def test_withheld_labels_are_scored_without_metrics(run, corpus, tmp_path, capsys):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    protocol = copy / "ASVspoof5.eval.track_1.tsv"
    lines = [line.split() for line in protocol.read_text().splitlines()]
    protocol.write_text("".join(f"- {fields[1]} - - - - - - - -\n" for fields in lines))
    assert evaluate(run, copy, "--output", str(tmp_path / "out")) == 0
    assert len(read_scores(tmp_path / "out" / "eval_scores.tsv")) == 8
    assert "withholds labels" in capsys.readouterr().out
    assert not (tmp_path / "out" / "eval_metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "161"], "dim must be a positive multiple of 5"),
        (["--k", "0"], "k must be between 1 and dim"),
        (["--dim", "20", "--k", "21"], "k must be between 1 and dim = 20"),
        (["--data", "absent"], "absent"),
        (["--resume", "--output", "absent-run"], "nothing to resume"),
    ],
)
def test_user_errors_exit_with_2_and_one_sentence(corpus, tmp_path, capsys, arguments, message):
    command = ["train", "--output", str(tmp_path / "run"), "--data", str(corpus), *SHORT]
    assert main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--devices", "0"],
        ["train", "--workers", "-1"],
        ["train", "--batch-size", "1"],
        ["train", "--epochs", "many"],
        ["evaluate", "x.safetensors", "--batch-size", "0"],
    ],
)
def test_numbers_out_of_range_are_refused_by_name(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert arguments[-2] in error and f"got {arguments[-1]}" in error


def test_interrupted_training_exits_with_130_and_says_how_to_go_on(
    corpus, tmp_path, capsys, monkeypatch
):
    from sparse_aasist.training import loop

    def interrupted(*_arguments, **_options):
        raise loop.Interrupted

    monkeypatch.setattr(loop, "train", interrupted)
    assert main(["train", "--data", str(corpus), "--output", str(tmp_path / "run")]) == 130
    assert "continue with the same command and --resume" in capsys.readouterr().out


def test_full_disk_in_training_names_the_checkpoint(corpus, tmp_path, capsys, monkeypatch):
    from sparse_aasist.models import checkpoint

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    folder = tmp_path / "run"
    command = ["train", "--k", "4", "--dim", "20", "--data", str(corpus), "--output", str(folder)]
    assert main([*command, *SHORT]) == 2
    error = capsys.readouterr().err
    assert "last.safetensors" in error and "No space left on device" in error
    assert not list(folder.glob("*.safetensors")) and not list(folder.glob(".*"))


def test_published_weights_are_evaluated_with_their_conf(corpus, tmp_path, capsys):
    model = AASIST(dim=20, first_conv=64)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    block = {"model_config": {"first_conv": 64, "gat_dims": [64, 4]}}
    (tmp_path / "model.conf").write_text(json.dumps(block))
    command = ["evaluate", str(tmp_path / "model.pth"), "--data", str(corpus), "--split", "dev"]
    assert main([*command, "--conf", str(tmp_path / "model.conf")]) == 0
    assert len(read_scores(tmp_path / "dev_scores.tsv")) == 8


def test_unwritable_output_is_named_before_scoring(run, corpus, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert evaluate(run, corpus, "--output", str(tmp_path / "file" / "out")) == 2
    captured = capsys.readouterr()
    assert "cannot create the output directory" in captured.err and "scoring" not in captured.out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_truncated_trial_is_named_and_no_result_is_left(run, corpus, tmp_path, capsys, workers):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    victim = sorted((copy / "flac_E_eval").iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:300])
    assert evaluate(run, copy, "--output", str(tmp_path / "out"), "--workers", workers) == 2
    error = capsys.readouterr().err
    assert victim.name in error and error.startswith("error: ") and error.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_info_names_versions_and_backends(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed and "topk_activation" in printed


def test_default_corpus_is_built_when_absent(run, corpus, tmp_path, monkeypatch, capsys):
    import sparse_aasist.corpus as builder

    target = tmp_path / "cache" / "corpus"
    monkeypatch.setattr(builder, "default_corpus_dir", lambda: target)
    monkeypatch.setattr(
        builder, "build_corpus", lambda out, **_: Path(shutil.copytree(corpus, out))
    )
    command = ["evaluate", str(run / "best.safetensors"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "building the small real corpus" in capsys.readouterr().out
    assert main(command) == 0
    assert "building" not in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train", "evaluate", "sweep"])
def test_scripts_are_the_commands(script):
    help_text = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"sparse-aasist {script}" in help_text


def test_help_does_not_import_torch():
    code = "import sys, sparse_aasist.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    subprocess.run([sys.executable, "-c", f"{code}assert 'torch' not in sys.modules"], check=True)
