"""Which cases of the model are measured on a device, and how far their results may be off."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sparse_aasist._extension import cpu_multiplies_bfloat16


class Plan(NamedTuple):
    """What is measured on a device.

    Attributes:
        scoring: (name, batch) of scoring: "model" has all threads of a CPU, or a CUDA graph that
            is replayed; "one core" a single thread; "launched" is called as users do.
        scorers: providers that score.
        training_batch: clips of a training step.
        trainers: providers of a training step.
        stages: (mode, batch) of the stages: "forward" scores, "both" trains.
        stage_names: in the order of the model.
        stage_providers: providers of a stage.
        reference: the provider whose results the others are held to.
        in_bfloat16: providers that run the encoder in it.
        in_tf32: providers that convolve in it.
        gemm: size and dtype of the product of matrices that the stages are compared with.
    """

    scoring: tuple[tuple[str, int], ...]
    scorers: tuple[str, ...]
    training_batch: int
    trainers: tuple[str, ...]
    stages: tuple[tuple[str, int], ...]
    stage_names: tuple[str, ...]
    stage_providers: tuple[str, ...]
    reference: str
    in_bfloat16: tuple[str, ...]
    in_tf32: tuple[str, ...]
    gemm: tuple[int, torch.dtype]


# Without AMX autocast rounds what the kernels in float32 give: nothing to measure.
OURS_LOWERED = ("sparse_aasist bfloat16",) if cpu_multiplies_bfloat16() else ()
# Without AVX-512 a convolution of PyTorch takes 8 times as long in bfloat16 as in float32.
LOWERED = ("bfloat16",) if torch.backends.cpu.get_cpu_capability() != "AVX2" else ()
BLOCKS = ("front_end", *(f"block {number}" for number in range(1, 7)))
PLANS = {
    "cpu": Plan(
        scoring=(("model", 1), ("model", 8), ("model", 24), ("one core", 1)),
        scorers=(
            *("sparse_aasist", *OURS_LOWERED, "eager", "default malloc", "folded", "compiled"),
            *LOWERED,
            *(f"compiled {provider}" for provider in LOWERED),
        ),
        training_batch=8,
        trainers=("sparse_aasist", *OURS_LOWERED, "eager", "default malloc", *LOWERED),
        stages=(("forward", 1), ("forward", 8)),
        stage_names=BLOCKS,
        stage_providers=("sparse_aasist", *OURS_LOWERED, "eager", "folded", *LOWERED),
        reference="sparse_aasist",
        in_bfloat16=("sparse_aasist bfloat16", "bfloat16", "compiled bfloat16"),
        in_tf32=(),
        gemm=(2048, torch.float32),
    ),
    "cuda": Plan(
        scoring=(("model", 1), ("launched", 1), ("model", 24), ("launched", 24), ("model", 128)),
        scorers=("sparse_aasist", "eager", "float32", "bfloat16", "folded", "compiled"),
        training_batch=24,
        trainers=("sparse_aasist", "eager", "float32", "bfloat16"),
        stages=(("forward", 128), ("both", 24)),
        stage_names=(*BLOCKS, "graphs"),
        stage_providers=("sparse_aasist", "eager", "bfloat16"),
        reference="float32",
        in_bfloat16=("sparse_aasist", "bfloat16", "folded", "compiled"),
        in_tf32=("eager",),
        gemm=(8192, torch.bfloat16),
    ),
}

TOLERANCES = {"output": (1e-4, 2e-2), "gradient": (1e-2, 0.2), "step": (1e-2, 0.6)}
"""Of outputs, and of gradients of a stage and of a step, of the norm of all of them: in float32,
and in bfloat16 or TF32. Outputs for other noise differ by 0.28 and more, PyTorch's in bfloat16 by
8e-3. Max-pools over noise hand a gradient to another time step where rounding changes which is the
largest: PyTorch's own step in bfloat16 is off by 0.38 to 0.53, one without any gradient by 1, one
of other noise by 1.4."""


def tolerance_of(what: str, provider: str, device: str, stage: str = "") -> float:
    """Return how far a provider may be off; the graphs run in float32 everywhere."""
    plan = PLANS[device]
    is_rounded = stage != "graphs" and provider in plan.in_bfloat16 + plan.in_tf32
    return TOLERANCES[what][is_rounded]
