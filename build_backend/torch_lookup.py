"""Find the torch of the target environment without importing it.

An isolated build does not see the packages of the environment it installs into. But pip isolates
by PYTHONPATH alone, so the running interpreter, asked again without PYTHONPATH, tells; other
front ends build in a temporary environment, where $VIRTUAL_ENV or an override names the target.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MINIMUM_TORCH = "2.11"
TORCH_PYTHON_VARIABLE = "SPARSE_AASIST_TORCH_PYTHON"

# Reads torch/version.py on its own: importing torch takes seconds. The empty entry of sys.path
# is the current folder, which is not a place where packages are installed.
_PROBE = """
import importlib.util, json, runpy, sys
from pathlib import Path
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.find_spec("torch")
found = None
if spec is not None and spec.origin is not None:
    folder = Path(spec.origin).parent
    version = runpy.run_path(str(folder / "version.py"))
    found = {"folder": str(folder), "version": version["__version__"], "cuda": version["cuda"]}
print(json.dumps({"cache_tag": sys.implementation.cache_tag, "torch": found}))
"""


class TorchNotFoundError(RuntimeError):
    """No torch is installed where one was looked for."""


class TorchUnusableError(RuntimeError):
    """A torch, or the interpreter named to find it, cannot be built against."""


@dataclass(frozen=True)
class Torch:
    """An installed torch: its version, its CUDA version (None for a CPU build), its folder."""

    version: str
    cuda: str | None
    folder: Path

    @property
    def include(self) -> Path:
        return self.folder / "include"

    @property
    def lib(self) -> Path:
        return self.folder / "lib"


def find_torch() -> Torch:
    """Return the torch to build against.

    Looks, in this order, in: the interpreter that $SPARSE_AASIST_TORCH_PYTHON names; the running
    interpreter without PYTHONPATH; $VIRTUAL_ENV; the running interpreter as it is (there the
    front end puts a torch that was asked for).

    Raises:
        TorchNotFoundError: there is none.
        TorchUnusableError: the override names no working interpreter, one without torch, or one
            of another Python version.
    """
    override = os.environ.get(TORCH_PYTHON_VARIABLE)
    if override:
        return _from_override(override)
    for python, environment in _candidates():
        answer = _ask(python, environment)
        if answer and answer["torch"] and answer["cache_tag"] == sys.implementation.cache_tag:
            return _torch(answer)
    raise TorchNotFoundError(
        f"no torch is installed in this environment: install torch>={MINIMUM_TORCH} first"
    )


def check_version(torch: Torch) -> None:
    """Raise TorchUnusableError when `torch` is older than the oldest one the ops load in."""
    if _release(torch.version) < _release(MINIMUM_TORCH):
        raise TorchUnusableError(
            f"torch {torch.version} in {torch.folder} is too old: "
            f"install torch>={MINIMUM_TORCH}, then install sparse-aasist"
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _from_override(override: str) -> Torch:
    python = shutil.which(override)
    answer = _ask(python, dict(os.environ)) if python else None
    if answer is None:
        raise TorchUnusableError(f"{TORCH_PYTHON_VARIABLE}={override} is no Python interpreter")
    if answer["torch"] is None:
        raise TorchUnusableError(
            f"{TORCH_PYTHON_VARIABLE}={override} has no torch: install torch>={MINIMUM_TORCH} there"
        )
    if answer["cache_tag"] != sys.implementation.cache_tag:
        raise TorchUnusableError(
            f"{TORCH_PYTHON_VARIABLE}={override} is {answer['cache_tag']}, but this build is for "
            f"{sys.implementation.cache_tag}: name an interpreter of the same Python version"
        )
    return _torch(answer)


def _candidates() -> Iterator[tuple[str, dict[str, str]]]:
    environment = dict(os.environ)
    # pip sets both for its isolated environment; PYTHONNOUSERSITE would hide a `--user` torch.
    bare = {
        name: value
        for name, value in environment.items()
        if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")
    }
    yield sys.executable, bare
    virtual_env = environment.get("VIRTUAL_ENV")
    if virtual_env:
        yield str(Path(virtual_env) / "bin" / "python"), bare
    yield sys.executable, environment


def _ask(python: str, environment: dict[str, str]) -> dict | None:
    """Run the probe under `python`; None when it does not answer."""
    try:
        run = subprocess.run(
            [python, "-c", _PROBE], env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(run.stdout.splitlines()[-1])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def _torch(answer: dict) -> Torch:
    found = answer["torch"]
    return Torch(found["version"], found["cuda"], Path(found["folder"]))
