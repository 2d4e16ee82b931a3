"""Reading and writing model weights: our safetensors files and clovaai's published state dicts.

Our files carry the model configuration in their metadata and the weights under the prefix
"model.", so that a training checkpoint, which holds more, loads as a model too.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparse_aasist.errors import CheckpointError, SparseAasistError
from sparse_aasist.files import atomic_path
from sparse_aasist.models.config import READOUT_BLOCKS, AASISTConfig

MODEL_PREFIX = "model."
PUBLISHED_SAMPLES = 64_600
"""Samples that upstream scores per utterance (4.04 s)."""
AASIST_L = {"gat_dim": 24, "channels": 24, "pool_ratios": (0.4, 0.5, 0.7, 0.5)}
"""What tells the small published model by its shapes, and the ratios that its .conf gives."""
UPSTREAM_KEYS = ("first_conv", "filts", "pool_ratios", "temperatures")


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-able metadata to one .safetensors file, atomically.

    Raises:
        OSError: the folder cannot be written or the disk is full; names `path`, and whatever
            stood there before is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = {name: json.dumps(value) for name, value in metadata.items()}
    with atomic_path(path) as partial:
        try:
            save_file(plain, partial, metadata=text)
        except SafetensorError as error:  # how safetensors reports a failed write
            raise OSError(errno.EIO, str(error)) from error


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a .safetensors file written by `save_tensors`.

    Raises:
        CheckpointError: the file is missing, truncated or not ours; names it.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable .safetensors checkpoint, it may be truncated ({error})"
        ) from error


def _metadata(file: Any) -> dict[str, Any]:
    return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def save_model(model: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write the weights and `config` of an AASIST to a .safetensors file, atomically.

    Raises:
        OSError: the file cannot be written; names it.
    """
    save_tensors(path, model_tensors(model), {"config": model.config.to_dict(), **metadata})


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `model` under the names used in our files."""
    return {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}


def read_model(
    path: str | os.PathLike[str], conf: str | os.PathLike[str] | None = None
) -> tuple[AASISTConfig, dict[str, Tensor]]:
    """Read the configuration and the state dict of a model; see `AASIST.from_checkpoint`."""
    if Path(path).suffix != ".safetensors":
        state = _read_state_dict(path)
        return _config(infer_config(state, path) | _read_conf(conf), conf or path), state
    if conf is not None:
        raise CheckpointError(f"{conf}: {path} holds its own configuration; leave the .conf out")
    tensors, metadata = read_tensors(path)
    if "config" not in metadata:
        raise CheckpointError(f"{path}: holds no model configuration; train writes one")
    return _config(metadata["config"], path), with_prefix(tensors, MODEL_PREFIX)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def scoring_samples(path: str | os.PathLike[str]) -> int:
    """Return how many samples per trial the model in `path` was selected on.

    Raises:
        CheckpointError: the file is missing or unreadable; names it.
    """
    if Path(path).suffix != ".safetensors":
        return PUBLISHED_SAMPLES
    with _opened(path) as file:
        return _metadata(file).get("scoring", {}).get("samples", PUBLISHED_SAMPLES)


def scoring_calibration(path: str | os.PathLike[str]) -> dict[str, float] | None:
    """Return the calibration of the scores of the model in `path`, fitted on dev when it was saved.

    Returns:
        Scale and offset, for `Calibration.from_dict`; None for a published model and for one that
        was trained before calibration was kept.

    Raises:
        CheckpointError: the file is missing or unreadable; names it.
    """
    if Path(path).suffix != ".safetensors":
        return None
    with _opened(path) as file:
        return _metadata(file).get("scoring", {}).get("calibration")


def infer_config(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what the tensor shapes of a published state dict say about its configuration.

    The sinc filters are not stored and the graph ratios and temperatures leave no trace: those
    stay at upstream's defaults unless a .conf file is given.

    Raises:
        CheckpointError: a needed tensor is absent or misshapen; names the file and the tensor.
    """
    try:
        convs = [state[f"encoder.{i}.0.conv1.weight"].shape for i in range(4)]
        filts: list[Any] = [AASISTConfig.filts[0], *([shape[1], shape[0]] for shape in convs)]
        if state["pos_S"].shape[1] != filts[0] // 3:
            filts[0] = state["pos_S"].shape[1] * 3
        values = {
            "dim": state["out_layer.weight"].shape[1],
            "gat_dim": state["GAT_layer_S.att_proj.weight"].shape[0],
            "filts": filts,
        }
        if values["gat_dim"] == AASIST_L["gat_dim"] and filts[-1][-1] == AASIST_L["channels"]:
            values["pool_ratios"] = AASIST_L["pool_ratios"]
        return values
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path}: not an AASIST state dict (tensor {error} is missing or misshapen)"
        ) from error


def _read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise almost anything
        raise CheckpointError(
            f"{path}: not a readable PyTorch state dict, it may be truncated"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path}: holds no plain state dict (names to tensors)")
    return dict(state)


def _read_conf(conf: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read the parts of upstream's .conf that the tensors cannot tell."""
    if conf is None:
        return {}
    try:
        block = json.loads(Path(conf).read_text(encoding="utf-8"))["model_config"]
        if not isinstance(block, dict):
            raise TypeError
        values = {key: block[key] for key in UPSTREAM_KEYS if key in block}
        if "gat_dims" in block:
            gat_dim, htrg_dim = block["gat_dims"]
            values |= {"gat_dim": gat_dim, "dim": READOUT_BLOCKS * htrg_dim}
        return values
    except OSError as error:
        raise CheckpointError(
            f"{conf}: cannot read the configuration ({error.strerror})"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{conf}: not an AASIST .conf file (JSON with a model_config block)"
        ) from error


def _config(values: dict[str, Any], path: str | os.PathLike[str]) -> AASISTConfig:
    try:
        return AASISTConfig.from_dict(values)
    # TypeError and ValueError: values of another kind than the keys are meant for.
    except (SparseAasistError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
