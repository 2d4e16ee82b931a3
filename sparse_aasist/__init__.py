"""Sparse AASIST: a small, fast and explained detector of fake speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_aasist._extension import build_info
    from sparse_aasist.models import AASIST

__version__ = "0.1.0"
__all__ = ["AASIST", "__version__", "build_info"]


def __getattr__(name: str) -> Any:
    # Importing torch takes a second; commands that only print help should not pay it.
    if name == "AASIST":
        from sparse_aasist.models import AASIST

        return AASIST
    if name == "build_info":
        from sparse_aasist._extension import build_info

        return build_info
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
