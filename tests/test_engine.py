"""The engine's choices: precision and the layout of weights."""

from __future__ import annotations

import pytest
import torch
from bfloat16_block import FEATURES, calibrated_model, error_of, waveforms

from sparse_aasist import engine
from sparse_aasist.engine import lay_out, make_fabric, precision_of, wants_channels_last
from sparse_aasist.models import AASIST
from sparse_aasist.scoring import score

BLOCKS = {"residual_block", "residual_block_training"}


def is_channels_last(model: AASIST) -> bool:
    # The first convolution has one channel, which fits both layouts.
    return model.encoder[1][0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("precision", "changes"), [("32-true", False), ("bf16-mixed", True)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def test_weights_are_laid_out_for_the_precision(device, precision, changes, monkeypatch) -> None:
    monkeypatch.setattr(engine, "has_kernel", lambda *_: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    model = AASIST(dim=160, k=20).eval()
    waveform = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    expected = model(waveform).logits
    lay_out(make_fabric(precision), model)
    assert is_channels_last(model) is changes
    torch.testing.assert_close(model(waveform).logits, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "built", "wants"),
    [
        ("cpu", BLOCKS, False),
        ("cpu", set(), True),
        ("cuda", set(), True),
        ("cuda", {"residual_block"}, True),
        ("cuda", BLOCKS, False),
    ],
)
def test_channels_last_is_for_blocks_that_are_not_ours(device, built, wants, monkeypatch) -> None:
    monkeypatch.setattr(engine, "has_kernel", lambda op, _: op in built)
    assert wants_channels_last(device) is wants


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("fast_bf16", [True, False])
@pytest.mark.parametrize("amx", [True, False])
def test_auto_on_a_cpu_is_bf16_only_where_it_is_faster(kernel, fast_bf16, amx, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine, "has_kernel", lambda *_: kernel)
    monkeypatch.setattr(engine, "cpu_has_fast_bf16", lambda: fast_bf16)
    monkeypatch.setattr(engine, "cpu_multiplies_bfloat16", lambda: amx)
    expected = "bf16-mixed" if (amx if kernel else fast_bf16) else "32-true"
    assert precision_of(make_fabric("auto")) == expected


@pytest.mark.needs_cuda
def test_auto_on_a_gpu_is_bf16_and_scores_in_float32() -> None:
    model, clips = calibrated_model(), waveforms()
    with torch.inference_mode():
        expected = model.encoder(model._filter(clips))
    fabric = make_fabric("auto")
    assert precision_of(fabric) == "bf16-mixed" and fabric.device.type == "cuda"
    lay_out(fabric, model)
    model, clips = fabric.to_device(model), fabric.to_device(clips)
    with torch.inference_mode(), fabric.autocast():
        features = model.encoder(model._filter(clips))
        scores = score(model(clips))
    assert features.is_cuda and features.dtype is torch.bfloat16
    # That it is not float32 shows in the last digits.
    assert 1e-4 < error_of(features, expected) < FEATURES
    assert scores.dtype is torch.float32 and scores.isfinite().all()
