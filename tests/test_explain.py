"""Explanations: exact sums, silencing, ties, nearest classes, and both commands end to end."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import tiny_model
import torch
from rich.console import Console
from synthetic import make_corpus
from tiny_model import SMALL

from sparse_aasist.analysis.dimension import Shift, Tie, block_of, largest_shift, ties_of
from sparse_aasist.analysis.explain import explain
from sparse_aasist.analysis.model_analysis import read_analysis, write_analysis
from sparse_aasist.analysis.neighbours import (
    describe_classes,
    is_unlike,
    nearest_classes,
    unlike_share,
)
from sparse_aasist.cli import main
from sparse_aasist.data.protocol import open_split
from sparse_aasist.data.recording import read_recording
from sparse_aasist.engine import make_fabric
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.calibration import Calibration, fit_calibration
from sparse_aasist.files import digest
from sparse_aasist.models import AASIST
from sparse_aasist.models.checkpoint import (
    read_tensors,
    save_tensors,
    scoring_calibration,
    scoring_samples,
)
from sparse_aasist.scoring import score_trials
from sparse_aasist.training.loop import train

RECIPE = dataclasses.replace(tiny_model.RECIPE, batch_size=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), trials_per_split=48, seconds=0.3)


@pytest.fixture(scope="module")
def best(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return train(RECIPE, corpus, folder, console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def analysed(best, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    command = ["analyse", str(best), "--data", str(corpus), "--output", str(folder)]
    assert main(command) == 0
    return folder / "dev_analysis.json"


@pytest.fixture
def recording(corpus):
    split = open_split(corpus, "eval")
    return split.audio_path(split.trials[1])


def small(**changes) -> AASIST:
    torch.manual_seed(5)
    return AASIST(**(SMALL.to_dict() | changes)).eval()


def waveform(seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(3000)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [{}, {"k": None}, {"sigmoid": True}, {"k": None, "sigmoid": True}, {"topk_by": "abs"}],
    ids=["k", "dense", "sigmoid", "dense_sigmoid", "abs"],
)
@pytest.mark.parametrize("calibration", [None, Calibration(1.7, -0.4)], ids=["raw", "calibrated"])
def test_contributions_sum_and_silencing_is_the_model_s_own(changes, calibration):
    model, audio = small(**changes), waveform()
    found = explain(model, audio, calibration=calibration)
    with torch.no_grad():
        embedding, logits = model(torch.from_numpy(audio)[None])
        score = (logits[0, 1] - logits[0, 0]).item()
        expected = score if calibration is None else 1.7 * score - 0.4
        assert found.score == pytest.approx(score, abs=1e-6)
        assert found.decided_on == pytest.approx(expected, abs=1e-6)
        assert found.sum == pytest.approx(expected, abs=1e-5)
        active = [entry.dimension for entry in found.dimensions]
        assert sorted(active) == torch.nonzero(embedding[0]).flatten().tolist()
        for entry in found.dimensions:
            changed = embedding.clone()
            changed[0, entry.dimension] = 0.0
            spoof, bonafide = model.out_layer(changed)[0].tolist()
            without = bonafide - spoof
            if calibration is not None:
                without = 1.7 * without - 0.4
            assert entry.without == pytest.approx(without, abs=1e-5)
            assert entry.activation == embedding[0, entry.dimension].item()
    sizes = [abs(entry.contribution) for entry in found.dimensions]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("prior", [0.05, 0.5, 0.9])
def test_decision_and_probability_follow_the_prior(prior):
    found = explain(small(), waveform(), calibration=Calibration(2.0, 0.3), prior_bonafide=prior)
    odds = math.exp(found.llr) * prior / (1 - prior)
    assert found.probability_bonafide == pytest.approx(odds / (1 + odds), rel=1e-12)
    assert found.threshold == pytest.approx(-math.log(prior / (1 - prior)), abs=1e-12)
    assert found.label == ("bona fide" if odds >= 1 else "spoof")


def test_what_is_not_known_is_said():
    found = explain(small(), waveform())
    assert found.llr is None and found.probability_bonafide is None and found.nearest is None
    assert "not calibrated" in found.notes[0] and "no analysis" in found.notes[1]
    useless = explain(small(), waveform(), calibration=Calibration(0.0, 0.0))
    assert useless.llr == 0.0 and "no better than chance" in useless.notes[0]


def test_faulty_arguments_are_refused(analysed):
    with pytest.raises(SparseAasistError, match="training mode"):
        explain(small().train(), waveform())
    with pytest.raises(SparseAasistError, match="prior_bonafide is 1"):
        explain(small(), waveform(), prior_bonafide=1.0)
    with pytest.raises(SparseAasistError, match="20 dimensions, this one has 25"):
        explain(small(dim=25), waveform(), analysis=read_analysis(analysed))
    broken = small()
    with torch.no_grad():
        broken.master1.fill_(math.nan)
    with pytest.raises(SparseAasistError, match="not finite"):
        explain(broken, waveform())


def test_blocks_are_those_of_the_readout():
    assert [block_of(d, 20) for d in (0, 3, 4, 11, 12, 19)] == [
        "T_max", "T_max", "T_avg", "S_max", "S_avg", "master"
    ]  # fmt: skip


def test_ties_must_pass_both_limits_and_the_largest_shift_is_named():
    analysis = {
        "all_attacks": {
            "factors": ["A01", "A02", "bonafide"],
            "informative": [True, False],
            "nmi": [[0.2, 0.01, 0.5], [0.1, 0.3, 0.2]],
            "null_quantile": [[0.1, 0.02, 0.1], [0.0, 0.0, 0.0]],
            "p_value": [[0.02, 0.4, 0.01], [0.03, 0.03, 0.03]],
        },
        "intervention": {
            "attacks": ["A01", "A02"],
            "baseline": [0.1, 0.2],
            "silenced": [[0.13, 0.15], [0.1, 0.2]],
        },
    }
    assert ties_of(analysis, 0) == (Tie("bonafide", 0.5, 0.1, 0.01), Tie("A01", 0.2, 0.1, 0.02))
    assert ties_of(analysis, 1) == ()
    assert largest_shift(analysis, 0) == Shift("A02", 0.2, 0.15)
    assert largest_shift(analysis, 1) is None
    assert ties_of(analysis | {"all_attacks": None}, 0) == ()
    with pytest.raises(SparseAasistError, match="dimension is 2, but the analysis is of a model"):
        ties_of(analysis, 2)


def on_circle(steps) -> np.ndarray:
    angles = np.radians(0.05 * np.asarray(steps, dtype=np.float64))
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1)


def test_farther_than_is_the_share_of_members_at_most_as_far():
    # The gaps grow by one step, so the member at place i is i steps from its nearest other one,
    # and the first is one step from the second.
    members = on_circle(np.cumsum(np.arange(51)))
    classes = describe_classes(members, np.array(["A01"] * 51))
    for steps, share in ((0.5, 0.0), (25, 0.5), (49, 0.98), (50, 1.0), (70, 1.0)):
        # Longer, because length must not count.
        (found,) = nearest_classes(7.0 * on_circle(-steps), classes)
        assert found.distance == pytest.approx(1 - math.cos(math.radians(0.05 * steps)), abs=1e-8)
        assert found.farther_than == pytest.approx(share, abs=2e-3)
        assert is_unlike((found,)) == (steps >= 50)
    assert found.trials == 51


def test_nearest_classes_against_a_plain_loop():
    rng = np.random.default_rng(3)
    h = np.maximum(rng.standard_normal((330, 12)), 0.0).astype(np.float32)
    names = np.repeat(["A01", "A02", "bonafide", "A03", "-"], (120, 60, 100, 9, 41))
    h[names == "A02", :4] += 1.0
    classes = describe_classes(h, names)
    assert list(classes) == ["A01", "A02", "bonafide"]  # nine trials are too few

    def distance(a, b):
        return 1.0 - float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))

    query = np.maximum(rng.standard_normal(12), 0.0)
    found = nearest_classes(query, classes)
    for neighbour in found:
        members = h[names == neighbour.attack].astype(np.float64)
        chosen = np.unique(np.round(np.linspace(0, len(members) - 1, min(len(members), 100))))
        others = [
            min(distance(a, members[int(i)]) for i in chosen if int(i) != row)
            for row, a in enumerate(members)
        ]
        nearest = min(distance(query, members[int(i)]) for i in chosen)
        assert neighbour.distance == pytest.approx(nearest, abs=1e-5)
        share = np.mean(np.array(others) <= nearest)
        assert neighbour.farther_than == pytest.approx(share, abs=1.5 / len(members))
    assert [entry.distance for entry in found] == sorted(entry.distance for entry in found)
    rows = rng.standard_normal((40, 12))
    expected = np.mean([is_unlike(nearest_classes(row, classes)) for row in rows])
    assert 0 < expected < 1 and unlike_share(rows, classes) == expected


def test_neighbours_refuse_what_does_not_fit():
    classes = describe_classes(on_circle(range(12)), np.array(["A01"] * 12))
    with pytest.raises(SparseAasistError, match="3 dimensions and the training classes 2"):
        nearest_classes(np.ones(3), classes)
    with pytest.raises(SparseAasistError, match="no classes of training speech"):
        nearest_classes(np.ones(2), {})
    assert nearest_classes(np.zeros(2), classes)[0].distance == 1.0


def test_recordings_say_what_was_done(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal((44_100, 2)), 44_100)
    soundfile.write(tmp_path / "short.flac", np.zeros(800), 16_000)
    audio, found = read_recording(tmp_path / "long.wav", 8000)
    assert audio.shape == (8000,) and found.duration_s == pytest.approx(1.0, abs=1e-3)
    assert found.notes()[1:] == [
        "resampled from 44100 Hz to 16000 Hz",
        "2 channels averaged",
        "the first 0.50 s are heard, 0.50 s are not",
    ]
    _, found = read_recording(tmp_path / "short.flac", 8000)
    assert found.notes()[:2] == ["0.05 s", "repeated to 0.50 s"] and found.is_silent


def test_training_stores_the_calibration_of_its_dev_scores(best, corpus):
    split = open_split(corpus, "dev")
    model = AASIST.from_checkpoint(best)
    scores = score_trials(make_fabric(), model, split, scoring_samples(best), batch_size=8).scores
    expected = fit_calibration(scores, [trial.label for trial in split.trials])
    stored = Calibration.from_dict(scoring_calibration(best))
    assert stored.scale == pytest.approx(expected.scale, rel=1e-4)
    assert stored.offset == pytest.approx(expected.offset, rel=1e-4)


def test_analysis_file_is_complete(analysed, best, corpus):
    analysis = read_analysis(analysed)
    assert analysis["checkpoint_sha256"] == digest(best)
    trials = open_split(corpus, "train").trials
    counts = {name: entry["trials"] for name, entry in analysis["train_attacks"].items()}
    assert counts == {
        name: sum(trial.attack == name for trial in trials) for name in ("A01", "A02", "bonafide")
    }
    assert set(analysis["unlike_training"]) == {"bonafide", "spoof"}
    stored = scoring_calibration(best)
    assert analysis["calibration"]["scale"] == pytest.approx(stored["scale"], rel=1e-4)


def test_explain_prints_one_json_list_and_goes_on_after_a_faulty_file(
    best, analysed, recording, tmp_path, capsys
):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    files = [str(bad), str(recording), str(tmp_path / "absent.mp3")]
    command = ["explain", *files, "--checkpoint", str(best), "--analysis", str(analysed), "--json"]
    assert main(command) == 2
    printed = capsys.readouterr()
    first, found, last = json.loads(printed.out)
    assert first["file"] == files[0] and "cannot be decoded" in first["error"]
    assert last["file"] == files[2] and "does not exist" in last["error"]
    assert printed.err.count("error: ") == 2
    audio, _ = read_recording(recording, scoring_samples(best))
    expected = explain(
        AASIST.from_checkpoint(best),
        audio,
        calibration=Calibration.from_dict(scoring_calibration(best)),
        analysis=read_analysis(analysed),
    )
    for key, value in json.loads(json.dumps(expected.to_dict())).items():
        assert found[key] == value
    # The model adds in float32, and the calibration of separable scores is steep.
    assert abs(found["sum_error"]) < 1e-6 * found["calibration"]["scale"]
    assert len(found["dimensions"]) == 5
    assert {entry["attack"] for entry in found["nearest"]} == {"A01", "A02", "bonafide"}
    assert found["audio"]["heard_s"] == 3000 / 16_000


def test_explain_prints_the_decision_in_words(best, analysed, recording, capsys):
    command = ["explain", str(recording), "--checkpoint", str(best), "--analysis", str(analysed)]
    assert main([*command, "--prior", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{recording}: ") and "at a prior of 0.1" in printed
    assert "bona fide from +2.197 on: Bayes" in printed and "nearest in training: " in printed
    assert main([*command, "--prior", "0"]) == 2
    assert "prior_bonafide is 0" in capsys.readouterr().err


def test_an_old_checkpoint_is_uncalibrated_until_it_is_analysed(
    best, analysed, recording, tmp_path, capsys
):
    old = tmp_path / "old.safetensors"
    tensors, metadata = read_tensors(best)
    save_tensors(old, tensors, metadata | {"scoring": {"samples": 3000}})
    assert scoring_calibration(old) is None and scoring_samples(old) == 3000
    assert main(["explain", str(recording), "--checkpoint", str(old)]) == 0
    printed = capsys.readouterr().out
    assert "score, not calibrated" in printed and "probability of" not in printed
    analysis = read_analysis(analysed) | {"checkpoint_sha256": digest(old)}
    write_analysis(tmp_path / "dev_analysis.json", analysis)  # found, because it lies beside it
    assert main(["explain", str(recording), "--checkpoint", str(old)]) == 0
    assert "calibrated on dev; probability of bona fide" in capsys.readouterr().out.replace(")", "")


def test_the_analysis_of_another_checkpoint_is_not_used(
    best, analysed, recording, tmp_path, capsys
):
    other = tmp_path / "other.safetensors"
    tensors, metadata = read_tensors(best)
    save_tensors(other, tensors, metadata | {"selected": {"epoch": 9}})
    command = ["explain", str(recording), "--checkpoint", str(other)]
    assert main([*command, "--analysis", str(analysed)]) == 2
    assert f"{analysed} is not the analysis of {other}" in capsys.readouterr().err
    unsigned = tmp_path / "unsigned.json"
    analysis = read_analysis(analysed)
    del analysis["checkpoint_sha256"]
    write_analysis(unsigned, analysis)
    command = ["explain", str(recording), "--checkpoint", str(best)]
    assert main([*command, "--analysis", str(analysed)]) == 0
    assert main([*command, "--analysis", str(unsigned)]) == 2
    capsys.readouterr()
    command = ["explain", str(recording), "--checkpoint", str(other)]
    shutil.copy(analysed, tmp_path / "dev_analysis.json")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "going on without" in printed.err and "no analysis of this model" in printed.out


def test_a_published_state_dict_is_explained(recording, tmp_path, capsys):
    model = small(k=None, first_conv=128)
    torch.save(model.state_dict(), tmp_path / "published.pth")
    command = ["explain", str(recording), "--checkpoint", str(tmp_path / "published.pth")]
    assert main([*command, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["calibration"] is None and abs(found["sum_error"]) < 1e-5
    assert len(found["dimensions"]) == 20 and found["audio"]["heard_s"] == 64_600 / 16_000


def test_analysis_without_train_and_without_praat(best, corpus, tmp_path, capsys, monkeypatch):
    data = shutil.copytree(corpus, tmp_path / "data")
    (data / "ASVspoof5.train.tsv").unlink()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "parselmouth" else find(name)
    )
    command = ["analyse", str(best), "--data", str(data), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "parselmouth is not installed" in printed and "explain can name no nearest" in printed
    analysis = read_analysis(tmp_path / "out" / "dev_analysis.json")
    assert analysis["train_attacks"] == {} and "f0_hz" not in analysis["factors"]
    found = explain(AASIST.from_checkpoint(best), waveform(), analysis=analysis)
    assert found.nearest is None and "no training classes" in found.notes[0]


def test_analysis_needs_the_labels_of_dev(best, corpus, tmp_path, capsys):
    data = shutil.copytree(corpus, tmp_path / "data")
    protocol = data / "ASVspoof5.dev.track_1.tsv"
    lines = [line.split() for line in protocol.read_text().splitlines()]
    protocol.write_text("".join(f"- {fields[1]} - - - - - - - -\n" for fields in lines))
    command = ["analyse", str(best), "--data", str(data), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "an analysis needs all labels of dev" in capsys.readouterr().err


def test_explanations_are_plain_and_frozen():
    found = explain(small(), waveform())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["dims"] == 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.score = 1.0


def test_members_of_a_class_of_equal_embeddings_are_like_it():
    rows = np.tile([[0.0, 2.0, 1.0]], (12, 1))
    classes = describe_classes(rows, np.full(12, "A01"))
    assert not is_unlike(nearest_classes(rows[0], classes))
    assert is_unlike(nearest_classes([1.0, 0.0, 0.0], classes))
