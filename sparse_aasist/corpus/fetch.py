"""Get the packages of a recipe: recorded speech and engines, and what of them can be used here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_aasist.corpus.debian import DebianCache, DebPackage
from sparse_aasist.corpus.engines import ENGINES
from sparse_aasist.corpus.recipe import Partition
from sparse_aasist.corpus.runner import Runner
from sparse_aasist.corpus.sources import SPEAKERS
from sparse_aasist.errors import CorpusError


@dataclass(frozen=True)
class Fetched:
    """Packages, where they were unpacked, and the engines that can run."""

    packages: dict[str, DebPackage]
    speech_roots: dict[str, Path]
    engine_root: Path | None
    engines: tuple[str, ...]


def fetch(recipe: Sequence[Partition], debian: DebianCache, runner: Runner) -> Fetched:
    """Download and unpack what the recipe needs; warn about what is not to be had.

    Raises:
        CorpusError: not a Debian-like system, or no package with recorded speech is there.
    """
    speech = speech_packages(recipe)
    names = engine_names(recipe)
    engine_debs = tuple(dict.fromkeys(deb for name in names for deb in ENGINES[name].debs))
    bar = runner.progress.add_task("downloading packages", total=len(speech) + len(engine_debs))
    packages = debian.fetch((*speech, *engine_debs), lambda _: runner.progress.advance(bar))
    roots = {}
    for name in speech:
        if name in packages:
            runner.progress.update(bar, description=f"unpacking {name}")
            roots[name] = debian.unpack([packages[name]])
        else:
            runner.warn(f"Debian package {name} cannot be had: its speakers are left out")
    if not roots:
        raise CorpusError(
            "no package with recorded speech could be downloaded, so there is no bona fide "
            "class; check the network and `apt-get update`, then build again"
        )
    engine_root = None
    if of_engines := packages.keys() & set(engine_debs):
        libraries = debian.fetch(debian.missing_libraries(of_engines))
        packages |= libraries
        runner.progress.update(bar, description="unpacking engines")
        engine_root = debian.unpack([packages[name] for name in of_engines | libraries.keys()])
    runner.progress.update(bar, description="downloading packages")
    return Fetched(packages, roots, engine_root, usable_engines(names, engine_root, runner))


def usable_engines(
    names: Sequence[str], engine_root: Path | None, runner: Runner
) -> tuple[str, ...]:
    """Return the engines that can run here; warn about the others, saying why."""
    usable = []
    for name in names:
        reason = ENGINES[name](engine_root).reason_unavailable()
        if reason is None:
            usable.append(name)
        else:
            runner.warn(f"engine {name} is left out: {reason}")
    return tuple(usable)


def speech_packages(recipe: Sequence[Partition]) -> tuple[str, ...]:
    """Return the Debian packages with the recipe's human speakers."""
    speakers = [SPEAKERS[name] for part in recipe for name in part.speakers]
    return tuple(dict.fromkeys(package for speaker in speakers for package in speaker.packages))


def engine_names(recipe: Sequence[Partition]) -> tuple[str, ...]:
    """Return the recipe's engines in the order of ENGINES."""
    used = {attack.engine for part in recipe for attack in part.attacks}
    return tuple(name for name in ENGINES if name in used)
