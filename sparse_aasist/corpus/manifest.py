"""The corpus's papers: every source and engine with version, checksum and licence, every clip."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_aasist.corpus.debian import DebPackage, file_sha256
from sparse_aasist.corpus.engines import ENGINES
from sparse_aasist.corpus.sources import LICENCES, SPEAKERS

if TYPE_CHECKING:
    from sparse_aasist.corpus.fetch import Fetched
    from sparse_aasist.corpus.recipe import NamedClip, Partition
    from sparse_aasist.corpus.shortcuts import ShortcutResult

MANIFEST = "manifest.json"
FORMAT = 1
_TOOLS = ("soundfile", "soxr", "scipy", "numpy", "G722")


def build_manifest(
    size: str,
    recipe: Sequence[Partition],
    named: Sequence[NamedClip],
    fetched: Fetched,
    results: Sequence[ShortcutResult],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest of a finished corpus as a JSON-ready dictionary."""
    clips = [_clip_entry(item) for item in named]
    listing = "\n".join(sorted(f"{clip['sha256']}  {clip['name']}" for clip in clips))
    return {
        "format": FORMAT,
        "size": size,
        "builder": {"code": code_digest(), "modules": module_versions(fetched.engines)},
        "files_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "counts": {part.name: _counts(part.name, named) for part in recipe},
        "shortcuts": [asdict(result) for result in results],
        "warnings": list(warnings),
        "sources": _sources(recipe, fetched.packages),
        "engines": {name: _engine(name, fetched.packages) for name in fetched.engines},
        "packages": {
            name: {"version": p.version, "sha256": p.sha256}
            for name, p in sorted(fetched.packages.items())
        },
        "clips": clips,
    }


def code_digest() -> str:
    """Return a digest of the builder's own files: another recipe or path makes other clips."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.tsv")]):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def module_versions(engines: Sequence[str]) -> dict[str, str]:
    """Return the versions of the Python distributions whose code shapes the clips."""
    owners = metadata.packages_distributions()
    modules = [*_TOOLS, *(module for name in engines for module in ENGINES[name].modules)]
    found = {owners[m][0]: metadata.version(owners[m][0]) for m in modules if m in owners}
    return dict(sorted(found.items()))


def _counts(partition: str, named: Sequence[NamedClip]) -> dict[str, dict[str, int]]:
    own = [item.clip for item in named if item.clip.partition == partition]
    return {
        "attacks": dict(sorted(Counter(clip.attack for clip in own).items())),
        "speakers": dict(sorted(Counter(clip.speaker for clip in own).items())),
    }


def _sources(
    recipe: Sequence[Partition], packages: Mapping[str, DebPackage]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "partition": part.name,
            "gender": SPEAKERS[name].gender,
            "languages": SPEAKERS[name].languages,
            "packages": {p: LICENCES[p] for p in SPEAKERS[name].packages if p in packages},
        }
        for part in recipe
        for name in part.speakers
    }


def _engine(name: str, packages: Mapping[str, DebPackage]) -> dict[str, Any]:
    engine = ENGINES[name]
    return {
        "kind": engine.kind,
        "licence": engine.licence,
        "debian": [deb for deb in engine.debs if deb in packages],
        "modules": list(engine.modules),
    }


def _clip_entry(item: NamedClip) -> dict[str, Any]:
    clip = item.clip
    entry = {
        "name": item.name,
        "sha256": file_sha256(item.path),
        "attack": clip.attack,
        "engine": clip.engine,
        "voice": clip.voice,
        "language": clip.language,
        "text": clip.text,
        "source": clip.source,
    }
    return {key: value for key, value in entry.items() if value}
