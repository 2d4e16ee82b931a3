"""AASIST equals the published implementation: outputs, gradients, running statistics, traps.

The golden files were computed in float64 by the published code; see shared/data/README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sparse_aasist import AASIST
from sparse_aasist.models.checkpoint import infer_config

LENGTHS = {"": 64_600, "_30000": 30_000, "_129200": 129_200}
RANDOM_CASES = (160, 320)
CLASS_WEIGHTS = (0.1, 0.9)

# A wrong pooling order changes these logits by 6e-3, a float64 filter design by 6e-6.
FLOAT32_OUTPUT = 1e-5
FLOAT64_OUTPUT = 1e-12
FLOAT64_GRADIENT = 1e-6
FLOAT32_GRADIENT = 1e-3
STATISTICS = 1e-6


@pytest.fixture(scope="module")
def waveform(golden_dir: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(golden_dir / "aasist_eval.npz")["waveform"])


def published(weights_dir: Path, dtype: torch.dtype = torch.float32) -> AASIST:
    model = AASIST.from_checkpoint(
        weights_dir / "clovaai_AASIST.pth", weights_dir / "clovaai_AASIST.conf"
    )
    return model.to(dtype)


def random_case(golden_dir: Path, dim: int, dtype: torch.dtype) -> tuple[AASIST, dict]:
    golden = np.load(golden_dir / f"aasist_random_d{dim}.npz")
    state = {
        name.removeprefix("state/"): torch.from_numpy(golden[name])
        for name in golden
        if name.startswith("state/")
    }
    model = AASIST(**infer_config(state, "golden"))
    model.load_state_dict(state, strict=True)
    return model.to(dtype).eval(), golden


@pytest.mark.parametrize("suffix", LENGTHS)
def test_published_weights_give_the_published_output(golden_dir, weights_dir, waveform, suffix):
    golden = np.load(golden_dir / "aasist_eval.npz")
    repeated = torch.cat([waveform, waveform], dim=1)[:, : LENGTHS[suffix]]
    for dtype, tolerance in ((torch.float32, FLOAT32_OUTPUT), (torch.float64, FLOAT64_OUTPUT)):
        with torch.no_grad():
            output = published(weights_dir, dtype)(repeated.to(dtype))
        np.testing.assert_allclose(output.logits, golden[f"logits{suffix}"], atol=tolerance, rtol=0)
        np.testing.assert_allclose(
            output.embedding, golden[f"embedding{suffix}"], atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("dim", RANDOM_CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, FLOAT32_OUTPUT), (torch.float64, FLOAT64_OUTPUT)]
)
def test_live_attention_gives_the_published_output(golden_dir, waveform, dim, dtype, tolerance):
    model, golden = random_case(golden_dir, dim, dtype)
    with torch.no_grad():
        output = model(waveform.to(dtype))
    np.testing.assert_allclose(output.logits, golden["logits"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(output.embedding, golden["embedding"], atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dim", RANDOM_CASES)
def test_training_step_on_random_weights(golden_dir, waveform, dim):
    model, golden = random_case(golden_dir, dim, torch.float64)
    run_step(model, waveform, golden["labels"])
    check_step(model, golden, golden["train/loss"], golden["train/logits"], FLOAT64_GRADIENT)


@pytest.mark.slow
def test_training_step_on_published_weights(golden_dir, weights_dir, waveform):
    golden = np.load(golden_dir / "aasist_train_step.npz")
    model = published(weights_dir, torch.float64)
    run_step(model, waveform, golden["labels"])
    check_step(model, golden, golden["loss"], golden["logits"], FLOAT64_GRADIENT)


def test_training_step_in_float32(golden_dir, weights_dir, waveform):
    """In float32 rounding flips some max-pool winners, so the whole gradient is compared."""
    golden = np.load(golden_dir / "aasist_train_step.npz")
    model = published(weights_dir)
    run_step(model, waveform, golden["labels"])
    difference, norm = 0.0, 0.0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected = torch.from_numpy(golden[f"grad/{name}"])
            difference += (parameter.grad - expected).square().sum().item()
            norm += expected.square().sum().item()
    assert (difference / norm) ** 0.5 < FLOAT32_GRADIENT
    check_statistics(model, golden)


def run_step(model: AASIST, waveform: torch.Tensor, labels: np.ndarray) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dtype = model.out_layer.weight.dtype
    model.train()
    model.logits = model(waveform.to(dtype)).logits
    model.loss = F.cross_entropy(
        model.logits, torch.from_numpy(labels).long(), torch.tensor(CLASS_WEIGHTS, dtype=dtype)
    )
    model.loss.backward()


def check_step(model: AASIST, golden, loss, logits, tolerance: float) -> None:
    assert model.loss.item() == pytest.approx(float(loss), abs=1e-9)
    np.testing.assert_allclose(model.logits.detach(), logits, atol=1e-9, rtol=0)
    for name, parameter in model.named_parameters():
        if f"grad/{name}" not in golden:
            assert parameter.grad is None, f"{name} has no gradient in the published code"
            continue
        expected = golden[f"grad/{name}"]
        # A bias before batch normalisation has gradient 0: compare it on the scale of 1e-9.
        scale = max(np.linalg.norm(expected), 1e-6)
        error = np.linalg.norm(parameter.grad.numpy() - expected) / scale
        assert error < tolerance, f"{name}: relative gradient error {error:.2e}"
    check_statistics(model, golden)


def check_statistics(model: AASIST, golden) -> None:
    buffers = dict(model.named_buffers())
    stored = [name.removeprefix("buffer/") for name in golden if name.startswith("buffer/")]
    assert sum("bn1" in name for name in stored) == 15, "bn1 of five blocks must be covered"
    for name in stored:
        expected = golden[f"buffer/{name}"]
        scale = max(np.abs(expected).max(), 1.0)
        error = np.abs(buffers[name].numpy() - expected).max() / scale
        assert error < STATISTICS, f"{name}: {error:.2e}"
