"""In-tree PEP 517 backend: setuptools, built against the torch that is already installed.

Declaring `torch` as a build requirement would make pip fetch the newest torch into the build
environment and compile against that one. Here torch is asked for only when there is none.
"""

from __future__ import annotations

from typing import Any

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from torch_lookup import MINIMUM_TORCH, TorchNotFoundError, check_version, find_torch

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what the build needs beyond `build-system.requires`: torch, if there is none."""
    try:
        torch = find_torch()
    except TorchNotFoundError:
        requirement = f"torch>={MINIMUM_TORCH}"
        print(f"sparse_aasist: no torch is installed here, asking for {requirement}", flush=True)
        return [requirement]
    check_version(torch)
    print(f"sparse_aasist: building against torch {torch.version} in {torch.folder}", flush=True)
    return []


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return nothing: a source distribution is made without torch."""
    return []
