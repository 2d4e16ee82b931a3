"""Checkpoints: round trip, configuration inside, published files, and every way they can be bad."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError

from sparse_aasist import AASIST
from sparse_aasist.errors import CheckpointError
from sparse_aasist.models import checkpoint
from sparse_aasist.models.checkpoint import infer_config, save_model, scoring_samples


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = AASIST(dim=320, k=20, sigmoid=True).eval()
    path = tmp_path / "model.safetensors"
    save_model(model, path, scoring={"samples": 32_000})
    return model, path


def test_round_trip_keeps_weights_configuration_and_scoring_length(saved):
    model, path = saved
    again = AASIST.from_checkpoint(path)
    assert again.config == model.config and not again.training
    assert scoring_samples(path) == 32_000
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_published_weights_need_no_conf(weights_dir):
    path = weights_dir / "clovaai_AASIST.pth"
    plain = AASIST.from_checkpoint(path)
    with_conf = AASIST.from_checkpoint(path, weights_dir / "clovaai_AASIST.conf")
    assert plain.config == with_conf.config
    assert plain.config.gat_dims == (64, 32) and plain.config.k is None


def test_conf_supplies_what_tensors_cannot_tell(tmp_path):
    model = AASIST(first_conv=64, temperatures=(3, 4, 50, 50))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    block = {"first_conv": 64, "temperatures": [3, 4, 50, 50], "gat_dims": [64, 32]}
    (tmp_path / "a.conf").write_text(json.dumps({"model_config": block}))
    loaded = AASIST.from_checkpoint(tmp_path / "a.pth", tmp_path / "a.conf")
    assert loaded.config == model.config


def test_small_published_model_gets_its_pool_ratios():
    filts = (70, (1, 32), (32, 32), (32, 24), (24, 24))
    assert infer_config(AASIST(gat_dim=24, filts=filts).state_dict(), "L")["pool_ratios"] == (
        0.4,
        0.5,
        0.7,
        0.5,
    )
    assert "pool_ratios" not in infer_config(AASIST().state_dict(), "AASIST")


def test_conf_beside_a_checkpoint_of_ours_is_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"a.conf: .* holds its own configuration"):
        AASIST.from_checkpoint(saved[1], tmp_path / "a.conf")


@pytest.mark.parametrize("config", [3, [1], {"pool_ratios": None}, {"dim": 7}])
def test_bad_configuration_inside_is_named(tmp_path, config):
    checkpoint.save_tensors(tmp_path / "odd.safetensors", {}, {"config": config})
    with pytest.raises(CheckpointError, match=r"odd.safetensors: "):
        AASIST.from_checkpoint(tmp_path / "odd.safetensors")


def test_missing_file_is_named(tmp_path):
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: no such checkpoint file"):
            AASIST.from_checkpoint(tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_named(saved, tmp_path, share):
    model, path = saved
    torch.save(model.state_dict(), tmp_path / "model.pth")
    for good in (path, tmp_path / "model.pth"):
        data = good.read_bytes()
        cut = tmp_path / f"cut{good.suffix}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CheckpointError, match=rf"cut{good.suffix}: not a readable"):
            AASIST.from_checkpoint(cut)


def test_state_dict_of_another_shape_is_named(tmp_path):
    state = AASIST(dim=160).state_dict()
    state["out_layer.weight"] = torch.zeros(2, 320)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: the weights do not fit.*size mismatch"):
        AASIST.from_checkpoint(tmp_path / "other.pth")


def test_our_checkpoint_of_another_shape_is_named(saved, tmp_path):
    tensors, metadata = checkpoint.read_tensors(saved[1])
    tensors["model.out_layer.weight"] = torch.zeros(2, 5)
    checkpoint.save_tensors(tmp_path / "other.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match=r"other.safetensors: the weights do not fit"):
        AASIST.from_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello world", bytes(range(256)) * 4])
def test_foreign_bytes_are_named(tmp_path, content):
    (tmp_path / "foreign.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"foreign.pth: not a readable PyTorch state dict"):
        AASIST.from_checkpoint(tmp_path / "foreign.pth")


def test_state_dict_of_another_model_is_named(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match=r"linear.pth: not an AASIST state dict"):
        AASIST.from_checkpoint(tmp_path / "linear.pth")


def test_extra_tensor_is_an_error(tmp_path):
    state = AASIST(dim=160).state_dict() | {"extra": torch.zeros(1)}
    torch.save(state, tmp_path / "extra.pth")
    with pytest.raises(CheckpointError, match=r"extra.pth: the weights do not fit.*extra"):
        AASIST.from_checkpoint(tmp_path / "extra.pth")


def test_pickled_code_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth"):
        AASIST.from_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "{}",
        '{"model_config": []}',
        '{"model_config": {"gat_dims": 3}}',
        '{"model_config": {"filts": 70}}',
        '{"model_config": {"pool_ratios": 3}}',
        '{"model_config": {"temperatures": null}}',
    ],
)
def test_bad_conf_is_named(saved, tmp_path, text):
    torch.save(AASIST().state_dict(), tmp_path / "a.pth")
    (tmp_path / "bad.conf").write_text(text)
    with pytest.raises(CheckpointError, match=r"bad.conf"):
        AASIST.from_checkpoint(tmp_path / "a.pth", tmp_path / "bad.conf")


FULL = "No space left on device"


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, FULL), SafetensorError(f"I/O error: {FULL} (os error 28)")]
)
def test_full_disk_names_the_file_and_keeps_the_old_checkpoint(saved, monkeypatch, failure):
    model, path = saved
    before = path.read_bytes()

    def full(_tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=rf"cannot write {path}: .*{FULL}"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_unwritable_folder_is_named(saved, tmp_path):
    model, _ = saved
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/model.safetensors"):
        save_model(model, tmp_path / "file" / "model.safetensors")
