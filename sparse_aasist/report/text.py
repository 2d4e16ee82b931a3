"""How the report prints numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

NONE = "-"
"""In a cell without a number."""


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Print a fraction in percent, without the sign."""
    return number(None if value is None else 100 * value, digits)


def probability(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def points(value: float) -> str:
    """Print a difference of fractions in percentage points, with its sign."""
    return f"{100 * value:+.2f}"


def with_interval(
    value: float | None, low: float | None, high: float | None, factor: float, digits: int
) -> str:
    if value is None:
        return NONE
    text = number(factor * value, digits)
    if low is None or high is None:
        return text
    return f"{text} [{number(factor * low, digits)}, {number(factor * high, digits)}]"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there, None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def listed(names: Sequence[object]) -> str:
    """Join names in a sentence; "none" for no name."""
    words = [str(name) for name in names]
    if len(words) < 2:
        return words[0] if words else "none"
    return f"{', '.join(words[:-1])} and {words[-1]}"
