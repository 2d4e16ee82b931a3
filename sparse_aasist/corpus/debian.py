"""Debian packages as data: download with apt, verify, unpack into a cache, install nothing.

`apt-get download` checks every package against the signed package lists; `dpkg -x` unpacks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sparse_aasist.errors import CorpusError
from sparse_aasist.files import write_text

_PROGRAMS = ("apt-get", "apt-cache", "dpkg", "dpkg-deb")
_LOCK = "debs.json"
_LIBRARIES = "libraries.json"


@dataclass(frozen=True)
class DebPackage:
    """One downloaded package: name, version, file name and sha256 of the .deb."""

    name: str
    version: str
    file: str
    sha256: str


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class DebianCache:
    """Download and unpack Debian packages below one cache directory, without root.

    Args:
        folder: cache directory; packages in `debs/`, unpacked trees in `unpacked/`, private package
            lists in `apt/` where the system's own lists are missing or stale.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._debs = folder / "debs"
        self._own_lists = False

    def fetch(
        self, names: Iterable[str], report: Callable[[str], None] | None = None
    ) -> dict[str, DebPackage]:
        """Return the packages that could be had, downloading what the cache does not hold.

        Args:
            names: Debian package names.
            report: called with the name of each package once it is there.

        Returns:
            name -> package; a name that no archive offers is absent.

        Raises:
            CorpusError: apt and dpkg are not installed.
        """
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing:
            raise CorpusError(
                f"{missing[0]} is not installed; the corpus is assembled from Debian packages, "
                "build it on Debian or Ubuntu (a container will do) and copy the result"
            )
        self._debs.mkdir(parents=True, exist_ok=True)
        lock = self._read_lock()
        found: dict[str, DebPackage] = {}
        for name in names:
            package = lock.get(name)
            if package is None or not self._is_intact(package):
                package = self._download(name)
            if package is None:
                continue
            found[name] = lock[name] = package
            self._write_lock(lock)
            if report is not None:
                report(name)
        return found

    def missing_libraries(self, names: Iterable[str]) -> list[str]:
        """Return the shared-library packages `names` need and this system does not have.

        The answer is kept in the cache, so that a later build needs no package lists.
        """
        names = sorted(names)
        path = self.folder / _LIBRARIES
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if " ".join(names) in known:
            return known[" ".join(names)]
        done = self._apt("apt-get", "--simulate", "--no-install-recommends", "install", *names)
        if done.returncode != 0:
            return []
        inst = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ")]
        known[" ".join(names)] = sorted(name for name in inst if name.startswith("lib"))
        write_text(path, json.dumps(known, indent=1) + "\n")
        return known[" ".join(names)]

    def unpack(self, packages: Iterable[DebPackage]) -> Path:
        """Unpack packages into one tree, once, and return its root.

        Raises:
            CorpusError: a package is broken or the disk is full; names the package.
        """
        packages = sorted(packages, key=lambda package: package.name)
        digest = hashlib.sha256("".join(p.sha256 for p in packages).encode()).hexdigest()[:16]
        root = self.folder / "unpacked" / digest
        if root.is_dir():
            return root
        partial = root.with_name(f"{digest}.partial{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for package in packages:
            done = _run(["dpkg", "-x", str(self._debs / package.file), str(partial)])
            if done.returncode != 0:
                shutil.rmtree(partial, ignore_errors=True)
                raise CorpusError(
                    f"{self._debs / package.file} cannot be unpacked ({done.stderr.strip()}); "
                    "free some disk space or delete the file and build again"
                )
        partial.rename(root)
        return root

    def _download(self, name: str) -> DebPackage | None:
        for own_lists in (self._own_lists, True):
            if own_lists and not self._own_lists:
                self._update_own_lists()
            before = set(self._debs.glob("*.deb"))
            for stale in self._debs.glob(f"{name}_*.deb"):
                stale.unlink()
                before.discard(stale)
            done = self._apt("apt-get", "-qq", "download", name, folder=self._debs)
            new = sorted(set(self._debs.glob(f"{name}_*.deb")) - before)
            if done.returncode == 0 and new:
                return _describe(name, new[0])
        return None

    def _update_own_lists(self) -> None:
        """Fetch package lists into the cache: no root needed, the system stays as it is."""
        self._own_lists = True
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.folder / "apt" / folder).mkdir(parents=True, exist_ok=True)
        self._apt("apt-get", "-qq", "update")

    def _apt(
        self, program: str, *arguments: str, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        options = ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
        if self._own_lists:
            own = self.folder / "apt"
            options += ["-o", f"Dir::State::lists={own / 'lists'}"]
            options += ["-o", f"Dir::Cache={own / 'cache'}"]
        return _run([program, *options, *arguments], folder)

    def _is_intact(self, package: DebPackage) -> bool:
        path = self._debs / package.file
        return path.is_file() and file_sha256(path) == package.sha256

    def _read_lock(self) -> dict[str, DebPackage]:
        path = self.folder / _LOCK
        if not path.is_file():
            return {}
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {entry["name"]: DebPackage(**entry) for entry in entries}

    def _write_lock(self, lock: dict[str, DebPackage]) -> None:
        entries = [asdict(lock[name]) for name in sorted(lock)]
        write_text(self.folder / _LOCK, json.dumps(entries, indent=1) + "\n")


def _describe(name: str, path: Path) -> DebPackage:
    version = _run(["dpkg-deb", "--field", str(path), "Version"]).stdout.strip()
    return DebPackage(name, version, path.name, file_sha256(path))


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
