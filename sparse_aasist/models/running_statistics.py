"""Running statistics of batch normalisations that an op did in place of their modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_statistics(
    norms: Sequence[nn.BatchNorm1d | nn.BatchNorm2d],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    counts: Sequence[int],
) -> None:
    """Move the running statistics of `norms` as their forward would, in four launches on a GPU.

    Args:
        norms: with running statistics.
        means, variances: (C) of each, of the batch; the variances are biased.
        counts: values per channel of each, two or more.
    """
    # Without a momentum BatchNorm keeps the mean of all batches.
    shares = [
        1 / (int(norm.num_batches_tracked) + 1) if norm.momentum is None else norm.momentum
        for norm in norms
    ]
    unbiased = [share * n / (n - 1) for share, n in zip(shares, counts, strict=True)]
    running = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
    batch = [t.to(r.dtype) for t, r in zip((*means, *variances), running, strict=True)]
    tracked = [norm.num_batches_tracked for norm in norms]
    torch._foreach_add_([count for count in tracked if count is not None], 1)
    torch._foreach_mul_(running, 2 * [1 - share for share in shares])
    torch._foreach_add_(running, torch._foreach_mul(batch, shares + unbiased))
