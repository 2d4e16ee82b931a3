"""The engine under training and scoring: devices, precision and processes, by Lightning Fabric."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from sparse_aasist._extension import cpu_multiplies_bfloat16, has_kernel
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.runtime import cpu_has_fast_bf16


class Bf16Mixed(MixedPrecision):
    """bf16 autocast that keeps its inputs: a waveform spans more range than bf16 resolves."""

    def __init__(self, device: str) -> None:
        super().__init__(precision="bf16-mixed", device=device)

    def convert_input(self, data: Any) -> Any:
        """Return `data` unchanged."""
        return data


def make_fabric(precision: str = "32-true", devices: int = 1) -> Fabric:
    """Start the engine on the best accelerator here.

    Args:
        precision: "32-true", "bf16-mixed", or "auto": what is fastest here, bf16 on a GPU that
            multiplies it and on a CPU with AMX; on others float32 by our kernels.
        devices: how many; more than one trains data-parallel (DDP). Under torchrun its own
            counts of processes and nodes hold.

    Raises:
        SparseAasistError: devices is not positive, or fewer CUDA devices are here.
    """
    on_gpu = torch.cuda.is_available()
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices if _under_torchrun() else 1
    if devices < 1:
        raise SparseAasistError(f"devices must be at least 1, got {devices}")
    if on_gpu and devices > torch.cuda.device_count():
        raise SparseAasistError(
            f"devices is {devices} but only {torch.cuda.device_count()} CUDA devices are here"
        )
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if on_gpu else _cpu_is_faster_in_bf16()
        precision = "bf16-mixed" if fast else "32-true"
    options: dict[str, Any] = {"precision": precision}
    if precision == "bf16-mixed":
        options = {"plugins": [Bf16Mixed("cuda" if on_gpu else "cpu")]}
    fabric = Fabric(
        # Only devices we test on; others run as a CPU does.
        accelerator="cuda" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        **options,
    )
    fabric.launch()
    return fabric


def _cpu_is_faster_in_bf16() -> bool:
    if has_kernel("residual_block_training", "cpu"):
        return cpu_multiplies_bfloat16()
    return cpu_has_fast_bf16()


def _under_torchrun() -> bool:
    return "LOCAL_WORLD_SIZE" in os.environ


def lay_out(fabric: Fabric, model: nn.Module) -> None:
    """Store the weights of `model` as the convolutions of `fabric` read them without copies."""
    if precision_of(fabric) == "bf16-mixed" and wants_channels_last(fabric.device.type):
        model.to(memory_format=torch.channels_last)


def wants_channels_last(device_type: str) -> bool:
    """Tell whether bf16 runs by oneDNN or cuDNN there; our kernels read contiguous weights."""
    return not all(
        has_kernel(op, device_type) for op in ("residual_block", "residual_block_training")
    )


def precision_of(fabric: Fabric) -> str:
    """Return the precision that `fabric` runs in."""
    return fabric.strategy.precision.precision
