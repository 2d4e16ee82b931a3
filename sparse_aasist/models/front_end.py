"""The fixed sinc filter bank that turns a waveform into band-passed signals.

Source: clovaai/aasist, models/AASIST.py (CONV), after SincNet (arXiv 1808.00158).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sparse_aasist.ops import front_end

SAMPLE_RATE_HZ = 16_000


def sinc_filters(num_filters: int, first_conv: int) -> Tensor:
    """Design Hamming-windowed ideal band-pass filters whose edges are equally spaced in mel.

    Filter i passes f_i..f_{i+1}: h = 2 f_{i+1}/s sinc(2 f_{i+1} n/s) - 2 f_i/s sinc(2 f_i n/s).

    Args:
        num_filters: number of filters.
        first_conv: taps asked for; an even number is raised to the next odd one.

    Returns:
        float32 (num_filters, taps), symmetric in the taps.
    """
    taps = first_conv + 1 - first_conv % 2
    top_mel = _hz_to_mel(np.float64(SAMPLE_RATE_HZ // 2))
    edges_hz = _mel_to_hz(np.linspace(0.0, top_mel, num_filters + 1))
    # PARITY: upstream evaluates the sinc in float32, scales in float64 and rounds the window and
    # the filter before their product. Filters that differ in the last bit change which of two
    # nearly equal samples a max-pool keeps, and so gradients by 1e-3.
    n = np.arange(taps, dtype=np.float32) - np.float32((taps - 1) / 2)
    arguments = n * np.float32(2 * edges_hz[:, None]) / np.float32(SAMPLE_RATE_HZ)
    low_pass = 2 * edges_hz[:, None] / SAMPLE_RATE_HZ * np.sinc(arguments)
    ideal = np.diff(low_pass, axis=0).astype(np.float32)
    return torch.from_numpy(np.hamming(taps).astype(np.float32) * ideal)


class SincFrontEnd(nn.Module):
    """Filter, rectify and pool a waveform: |conv| then 3 x 3 max over (filters, time).

    The filters are derived, not learned: they are a buffer outside the state dict, so that
    published checkpoints load strictly.

    Args:
        num_filters: number of sinc filters.
        first_conv: taps of each filter (made odd).
    """

    def __init__(self, num_filters: int, first_conv: int) -> None:
        super().__init__()
        filters = sinc_filters(num_filters, first_conv)
        self.register_buffer("filters", filters.unsqueeze(1), persistent=False)

    @property
    def taps(self) -> int:
        """Length of each filter in samples."""
        return self.filters.shape[-1]

    def forward(self, waveform: Tensor) -> Tensor:
        """Map a waveform (B, T) to (B, 1, filters // 3, (T - taps + 1) // 3)."""
        return front_end(waveform, self.filters)


def _hz_to_mel(hz: np.ndarray | np.float64) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
