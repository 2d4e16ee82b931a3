"""The configuration of an AASIST model: upstream's keys where they exist, words where they do not.

Key names follow the `model_config` block of clovaai/aasist's .conf files; the TopK keys follow
arXiv 2510.05696.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from sparse_aasist.errors import SparseAasistError

READOUT_BLOCKS = 5
"""T_max, T_avg, S_max, S_avg and master are concatenated into the embedding."""

TOPK_RULES = ("value", "abs")
TOPK_ORDERS = ("before_dropout", "after_dropout")


@dataclass(frozen=True)
class AASISTConfig:
    """Describe one AASIST network with a TopK last hidden layer.

    Args:
        dim: D, width of the last hidden layer; a multiple of 5 (D = 5 x last graph dimension).
        k: values kept per utterance, 1..D; None keeps all (the dense baseline, as k = D does).
        topk_by: rank by raw "value" (the paper's "highest values") or by "abs" magnitude.
        topk_order: "before_dropout" (inference equals training up to dropout) or "after_dropout".
        sigmoid: squash the hidden layer to (0, 1) first; ranking then uses the pre-activation.
        gat_dim: width of the two homogeneous graph attention layers (upstream's gat_dims[0]).
        first_conv: taps of the sinc filters; even values are made odd by adding one.
        filts: number of sinc filters, then [in, out] channels of the residual stages; the last
            stage is applied three times.
        pool_ratios: share of nodes kept by the spectral, temporal and heterogeneous pools; the
            fourth value is upstream's and is never read.
        temperatures: softmax temperatures of the spectral, temporal and heterogeneous attention;
            the fourth value is upstream's and is never read.

    Raises:
        SparseAasistError: a value is out of range; names the key, the value and the range.
    """

    dim: int = 160
    k: int | None = None
    topk_by: str = "value"
    topk_order: str = "before_dropout"
    sigmoid: bool = False
    gat_dim: int = 64
    first_conv: int = 128
    filts: tuple[Any, ...] = (70, (1, 32), (32, 32), (32, 64), (64, 64))
    pool_ratios: tuple[float, ...] = (0.5, 0.7, 0.5, 0.5)
    temperatures: tuple[float, ...] = (2.0, 2.0, 100.0, 100.0)

    def __post_init__(self) -> None:
        # JSON turns tuples into lists: one form inside, so that equal configurations compare equal.
        set_ = object.__setattr__
        set_(
            self, "filts", tuple(tuple(f) if isinstance(f, list | tuple) else f for f in self.filts)
        )
        set_(self, "pool_ratios", tuple(float(r) for r in self.pool_ratios))
        set_(self, "temperatures", tuple(float(t) for t in self.temperatures))
        self._check_widths()
        _check(
            self.topk_by in TOPK_RULES, f"topk_by must be one of {TOPK_RULES}, got {self.topk_by!r}"
        )
        _check(
            self.topk_order in TOPK_ORDERS,
            f"topk_order must be one of {TOPK_ORDERS}, got {self.topk_order!r}",
        )
        _check(
            len(self.pool_ratios) >= 3 and all(0.0 < r <= 1.0 for r in self.pool_ratios),
            f"pool_ratios needs at least three values in (0, 1], got {self.pool_ratios}",
        )
        _check(
            len(self.temperatures) >= 3 and all(t > 0.0 for t in self.temperatures),
            f"temperatures needs at least three positive values, got {self.temperatures}",
        )

    def _check_widths(self) -> None:
        _check(
            _is_count(self.dim) and self.dim % READOUT_BLOCKS == 0,
            f"dim must be a positive multiple of {READOUT_BLOCKS} (the embedding joins "
            f"{READOUT_BLOCKS} readout blocks), got {self.dim!r}",
        )
        _check(
            self.k is None or (_is_count(self.k) and self.k <= self.dim),
            f"k must be between 1 and dim = {self.dim}, or None for the dense baseline; "
            f"got {self.k!r}",
        )
        _check(_is_count(self.gat_dim), f"gat_dim must be a positive integer, got {self.gat_dim!r}")
        _check(
            _is_count(self.first_conv) and self.first_conv >= 3,
            f"first_conv must be an integer of at least 3, got {self.first_conv!r}",
        )
        stages = self.filts[1:]
        _check(
            len(self.filts) == 5
            and _is_count(self.filts[0])
            and self.filts[0] >= 3
            and all(isinstance(s, tuple) and len(s) == 2 and all(map(_is_count, s)) for s in stages)
            and stages[0][0] == 1
            and all(a[1] == b[0] for a, b in pairwise(stages))
            and stages[3][0] == stages[3][1],
            "filts must be [filters, [1, a], [a, b], [b, c], [c, c]] with positive integers, "
            f"got {self.filts}",
        )

    @property
    def gat_dims(self) -> tuple[int, int]:
        """Upstream's gat_dims: width of the homogeneous and of the heterogeneous layers."""
        return self.gat_dim, self.dim // READOUT_BLOCKS

    @property
    def kept(self) -> int:
        """Values that are kept of an embedding: k, or D of the dense baseline."""
        return self.k or self.dim

    @property
    def is_dense(self) -> bool:
        """Whether TopK leaves everything as it is."""
        return self.kept == self.dim

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AASISTConfig:
        """Build a configuration from plain values.

        Raises:
            SparseAasistError: a key is unknown or a value is out of range; names the key.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        _check(not unknown, f"unknown model configuration key {', '.join(unknown)}")
        return cls(**values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise SparseAasistError(message)
