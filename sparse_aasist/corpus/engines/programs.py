"""Run a Debian program from an unpacked package tree, without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_LIBRARIES = "usr/lib/*-linux-gnu"


def find_program(root: Path | None, name: str) -> str | None:
    """Return the program in the unpacked tree, else the one on PATH, else None."""
    if root is not None and (root / "usr/bin" / name).is_file():
        return str(root / "usr/bin" / name)
    return shutil.which(name)


def library_folder(root: Path) -> Path | None:
    """Return the multi-arch library folder of an unpacked tree."""
    return next(iter(sorted(root.glob(_LIBRARIES))), None)


def run_program(
    root: Path | None, command: list[str], folder: Path | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with the unpacked tree's libraries in front of the system's."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    libraries = library_folder(root) if root is not None else None
    if libraries is not None:
        folders = [str(libraries), str(libraries / "pulseaudio")]
        inherited = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join(folders + ([inherited] if inherited else []))
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
    )


def reason_not_running(root: Path | None, name: str, arguments: list[str]) -> str | None:
    """Return why a program does not run, or None when it does."""
    program = find_program(root, name)
    if program is None:
        return f"program {name} is neither in the package cache nor on PATH"
    try:
        done = run_program(root, [program, *arguments], timeout_s=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"program {name} does not run ({error})"
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        return f"program {name} does not run ({reason[-1] if reason else done.returncode})"
    return None
