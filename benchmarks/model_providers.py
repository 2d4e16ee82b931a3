"""One model as each provider runs it: weights, layout, precision and settings of the process."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache

import pytest
import torch
from measure import return_memory
from model_plans import PLANS
from published import instead_of_ours
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sparse_aasist import AASIST
from sparse_aasist.engine import wants_channels_last
from sparse_aasist.models.aasist import Output
from sparse_aasist.ops import backend
from sparse_aasist.runtime import tune_process

SAMPLES = 64_600
CALIBRATION_CLIPS = 4


class ObservedAASIST(AASIST):
    """A model that keeps, for checks, what the graphs were given last: `features` (B, C, F, T)."""

    features: Tensor

    def _classify(self, features: Tensor) -> Output:
        self.features = features.detach()
        return super()._classify(features)


def is_ours(provider: str) -> bool:
    return provider.startswith("sparse_aasist")


@lru_cache(maxsize=2)
def waveforms(batch: int, device: str) -> Tensor:
    """Return noise (batch, SAMPLES), float32, always the same."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, SAMPLES, generator=generator).mul(0.1).to(device)


@cache
def calibrated_weights() -> dict[str, Tensor]:
    """Return random weights with the statistics of noise.

    With those of a new model hardly anything passes the norms: other noise would change its logits
    by 2e-4, and no check would notice what a provider does.
    """
    torch.manual_seed(0)
    model = AASIST(dim=160, k=20)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(waveforms(CALIBRATION_CLIPS, "cpu"))
    return model.state_dict()


@cache
def model_of(provider: str, device: str) -> ObservedAASIST:
    """Return the same model for every provider, in the form that suits it."""
    model = ObservedAASIST(dim=160, k=20).eval()
    model.load_state_dict(calibrated_weights())
    if provider in ("folded", "compiled", "compiled bfloat16"):
        for block in model.encoder:
            block[0].conv1 = fuse_conv_bn_eval(block[0].conv1, block[0].bn2)
            block[0].bn2 = nn.Identity()
    in_bfloat16 = provider in PLANS[device].in_bfloat16
    if is_ours(provider):
        channels_last = in_bfloat16 and wants_channels_last(device)
    else:
        channels_last = provider in ("folded", "compiled", "bfloat16", "compiled bfloat16")
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)


@cache
def trained_model_of(provider: str, device: str) -> ObservedAASIST:
    """Return the model in training mode, without dropout."""
    model = copy.deepcopy(model_of(provider, device)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def autocast_of(provider: str, device: str) -> AbstractContextManager[object]:
    """Return the context of one call: entered once for many, it would keep converted weights."""
    return torch.autocast(device, torch.bfloat16, enabled=provider in PLANS[device].in_bfloat16)


@contextmanager
def settings_of(provider: str) -> Iterator[None]:
    """Make PyTorch run as the provider would: modules one by one, and malloc as glibc has it."""
    if is_ours(provider):
        with backend("compiled"):
            yield
        return
    with instead_of_ours() as patch:
        if provider == "float32":
            patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        try:
            if provider == "default malloc":
                set_malloc(mmap_threshold=32 << 20, trim_threshold=64 << 20, top_pad=128 << 10)
                return_memory()
            yield
        finally:
            tune_process()


def set_malloc(mmap_threshold: int, trim_threshold: int, top_pad: int) -> None:
    """Set what glibc arrives at by itself once large blocks were freed: mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("this malloc is not glibc's")
    for parameter, value in ((-3, mmap_threshold), (-1, trim_threshold), (-2, top_pad)):
        mallopt(parameter, value)
